/*
 * Makes system calls of every kind and checks each result itself; obeys lines on stdin, as
 * compat_tests/attach/victim.c. "ready", then for each line NAME [N] the test of that name is run N
 * times, and "ran NAME", or "NAME: what was wrong".
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "sites.h"

extern char **environ;
static char wrong[256];

#define CHECK(what) \
	do { \
		if (!(what) && !wrong[0]) \
			snprintf(wrong, sizeof(wrong), "line %d: %s (errno %d)", __LINE__, #what, \
				 errno); \
	} while (0)

/* registers */

static const struct {
	const char *name;
	site *call;
	int zone; /* words of the red zone, from its low end, that are nobody else's */
} sites[] = {
	{ "plain", plain, 16 },		{ "variable", variable, 16 }, { "several", several, 15 },
	{ "shared", shared, 16 },	{ "late", late, 16 },	      { "calling", calling, 14 },
	{ "returning", returning, 15 }, { "island", island, 15 },
};

static void fill(void *at, size_t size)
{
	for (size_t i = 0; i < size; i++)
		((unsigned char *)at)[i] = (unsigned char)rand();
}

static void one_site(int which, int jump)
{
	enum { FLAGS = 0xcd5, ALWAYS = 0x202, GETPID = 39 };
	struct state in, out, want;
	char what[64] = "";

	fill(&in, sizeof(in));
	in.flags = (in.flags & FLAGS) | ALWAYS;
	in.bp = in.r12 = GETPID;
	in.ax = jump ? 0 : in.ax | 1;
	if (sites[which].call == plain)
		in.r15 = 0x1122334455667788;
	sites[which].call(&in, &out);
	want = in;
	want.after = out.after;
	if (!jump) {
		want.ax = (uint64_t)getpid();
		want.cx = out.after;
		want.r11 = in.flags;
	}
	for (int i = sites[which].zone; i < 16; i++)
		want.zone[i] = out.zone[i];
	out.flags &= FLAGS | ALWAYS;
	for (size_t i = 0; i < sizeof(out) / 8; i++)
		if (((uint64_t *)&want)[i] != ((uint64_t *)&out)[i])
			snprintf(what, sizeof(what), "word %zu is %lx, not %lx", i,
				 ((uint64_t *)&out)[i], ((uint64_t *)&want)[i]);
	if (what[0] && !wrong[0])
		snprintf(wrong, sizeof(wrong), "%s (%d): %s", sites[which].name, jump, what);
}

static void t_sites(void)
{
	for (int i = 0; i < (int)(sizeof(sites) / sizeof(sites[0])); i++)
		one_site(i, 0);
}

static void t_jumps(void)
{
	one_site(3, 1);
	one_site(4, 1);
}

static void t_entry(void)
{
	for (int i = 0; i < 5; i++)
		CHECK(entry_call() == getpid());
}

/* numbers and errors */

static void t_numbers(void)
{
	errno = 0;
	CHECK(syscall(9999) == -1 && errno == ENOSYS);
	CHECK(syscall(511) == -1 && errno == ENOSYS);
	CHECK(syscall(512) == -1 && errno == ENOSYS);
	CHECK(syscall(-1) == -1 && errno == ENOSYS);
	CHECK(close(-1) == -1 && errno == EBADF);
	CHECK(syscall(SYS_getpid) == getpid());
	CHECK(syscall(SYS_close, -1) == -1 && errno == EBADF);
	CHECK(open("/nonexistent/file", O_RDONLY) == -1 && errno == ENOENT);
}

/* cancellation */

static int pipes[2], cleaned, destroyed;
static volatile int blocked;

static void clean(void *unused)
{
	(void)unused;
	cleaned++;
}

static void destroy(int *unused)
{
	(void)unused;
	destroyed++;
}

static void *wait_for_ever(void *unused)
{
	char c;
	int guard __attribute__((cleanup(destroy))) = 0;

	(void)unused;
	pthread_cleanup_push(clean, NULL);
	blocked = 1;
	while (read(pipes[0], &c, 1) == 1 || errno == EINTR)
		;
	pthread_cleanup_pop(0);
	return NULL;
}

static void await_sleep(pid_t tid)
{
	char path[64], text[512], *at;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	for (;;) {
		int fd = open(path, O_RDONLY);
		ssize_t n = read(fd, text, sizeof(text) - 1);

		close(fd);
		if (n <= 0)
			return;
		text[n] = 0;
		at = strrchr(text, ')');
		if (at && at[2] == 'S')
			return;
		sched_yield();
	}
}

static pid_t blocked_tid;

static void *blocked_read(void *arg)
{
	blocked_tid = (pid_t)syscall(SYS_gettid);
	return wait_for_ever(arg);
}

static pthread_t start_reader(void)
{
	pthread_t t;

	CHECK(!pipe(pipes));
	blocked = 0;
	CHECK(!pthread_create(&t, NULL, blocked_read, NULL));
	while (!blocked)
		sched_yield();
	await_sleep(blocked_tid);
	return t;
}

static void end_reader(pthread_t t, void *expected)
{
	void *value;

	CHECK(!pthread_join(t, &value) && value == expected);
	close(pipes[0]);
	close(pipes[1]);
}

static void t_cancel(void)
{
	pthread_t t = start_reader();

	cleaned = destroyed = 0;
	CHECK(!pthread_cancel(t));
	end_reader(t, PTHREAD_CANCELED);
	CHECK(cleaned == 1 && destroyed == 1);
}

/* the stack, seen from a handler that interrupts a call */

static void *frames[64];
static volatile int nframes;

static void look(int sig)
{
	(void)sig;
	nframes = backtrace(frames, 64);
}

static void t_backtrace(void)
{
	struct sigaction act = { .sa_handler = look, .sa_flags = SA_RESTART }, old;
	pthread_t t = start_reader();
	int found = 0;

	CHECK(!sigaction(SIGUSR1, &act, &old));
	nframes = 0;
	CHECK(!pthread_kill(t, SIGUSR1));
	while (!nframes)
		sched_yield();
	for (int i = 0; i < nframes; i++) {
		uintptr_t off = (uintptr_t)frames[i] - (uintptr_t)blocked_read;
		uintptr_t off2 = (uintptr_t)frames[i] - (uintptr_t)wait_for_ever;

		found |= off < 64 || off2 < 256;
	}
	CHECK(found);
	await_sleep(blocked_tid);
	close(pipes[1]); /* the restarted read ends */
	pipes[1] = -1;
	end_reader(t, NULL);
	CHECK(!sigaction(SIGUSR1, &old, NULL));
}

/* interrupted and restarted calls, each by a child that sends signals to this one */

static volatile int handled;

static void handle(int sig)
{
	(void)sig;
	handled++;
	CHECK(getppid() == (pid_t)syscall(SYS_getppid));
}

static pid_t signaller(int a, int b)
{
	pid_t me = getpid(), pid = fork();

	if (pid)
		return pid;
	for (int i = 0; i < 2; i++) {
		struct timespec pause = { 0, 15000000 };

		nanosleep(&pause, NULL);
		kill(me, i ? b : a);
	}
	_exit(0);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void t_interrupted(void)
{
	struct sigaction act = { .sa_handler = handle }, old;
	struct timespec wait = { 0, 50000000 }, left = { 0, 0 };
	int p[2], status;
	sigset_t none;
	char c;
	pid_t pid;

	CHECK(!pipe(p) && !sigaction(SIGUSR2, &act, &old));
	handled = 0;
	pid = signaller(SIGUSR2, SIGUSR2);
	CHECK(read(p[0], &c, 1) == -1 && errno == EINTR);
	CHECK(nanosleep(&wait, &left) == -1 && errno == EINTR && left.tv_nsec > 0);
	CHECK(waitpid(pid, &status, 0) == pid && handled == 2);
	act.sa_flags = SA_RESTART;
	CHECK(!sigaction(SIGUSR2, &act, NULL));
	handled = 0;
	pid = fork();
	if (!pid) {
		struct timespec pause = { 0, 10000000 };

		nanosleep(&pause, NULL);
		kill(getppid(), SIGUSR2);
		nanosleep(&pause, NULL);
		_exit(write(p[1], "x", 1) != 1);
	}
	CHECK(read(p[0], &c, 1) == 1 && c == 'x' && handled == 1); /* ERESTARTSYS */
	CHECK(waitpid(pid, &status, 0) == pid && !status);
	handled = 0;
	pid = signaller(SIGUSR2, SIGUSR2);
	CHECK(pause() == -1 && errno == EINTR && handled == 1); /* ERESTARTNOHAND */
	sigemptyset(&none);
	CHECK(sigsuspend(&none) == -1 && errno == EINTR && handled == 2);
	CHECK(waitpid(pid, &status, 0) == pid);
	close(p[0]);
	close(p[1]);
	CHECK(!sigaction(SIGUSR2, &old, NULL));
}

/* ERESTART_RESTARTBLOCK: stopped and continued while it waits */
static void t_stopped(void)
{
	struct timespec wait = { 0, 60000000 };
	pid_t child = fork();
	int status;

	if (!child) {
		double begun = now();
		struct pollfd none = { .fd = -1 };

		if (nanosleep(&wait, NULL) || now() - begun < 0.059)
			_exit(1);
		begun = now();
		if (poll(&none, 1, 60) || now() - begun < 0.059)
			_exit(2);
		_exit(0);
	}
	for (int i = 0; i < 6; i++) {
		struct timespec pause = { 0, 10000000 };

		nanosleep(&pause, NULL);
		kill(child, SIGSTOP);
		nanosleep(&pause, NULL);
		kill(child, SIGCONT);
	}
	CHECK(waitpid(child, &status, 0) == child);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* processes */

static int child_of_clone(void *arg)
{
	*(int *)arg = (int)syscall(SYS_getpid) == getpid();
	syscall(SYS_exit, 7);
	return 0;
}

static void reap(pid_t pid, int code)
{
	int status;

	CHECK(pid > 0 && waitpid(pid, &status, __WALL) == pid);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == code);
}

static void t_clone(void)
{
	static char stack[65536] __attribute__((aligned(16)));
	int same = 0;
	pid_t pid;
	struct clone_args args = { .exit_signal = SIGCHLD };

	reap(clone(child_of_clone, stack + sizeof(stack), CLONE_VM | SIGCHLD, &same), 7);
	CHECK(same);
	same = 0;
	reap(clone(child_of_clone, stack + sizeof(stack), CLONE_VM | CLONE_VFORK | SIGCHLD, &same), 7);
	CHECK(same);
	same = 0;
	reap(clone(child_of_clone, stack + sizeof(stack), SIGCHLD, &same), 7);
	CHECK(!same);
	pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
	if (!pid)
		_exit(9);
	reap(pid, 9);
	pid = (pid_t)syscall(SYS_fork);
	if (!pid)
		_exit(8);
	reap(pid, 8);
	pid = vfork();
	if (!pid)
		_exit(6);
	reap(pid, 6);
}

static void t_forks(void)
{
	for (int i = 0; i < 10; i++) {
		pid_t pid = fork();

		if (!pid)
			_exit(getpid() == (int)syscall(SYS_getpid) ? i : 99);
		reap(pid, i);
	}
}

static void t_exec(void)
{
	char *argv[] = { "sh", "-c", "exit 5", NULL }, *none[] = { "x", NULL };
	pid_t pid;

	CHECK(execve("/nonexistent/file", none, environ) == -1 && errno == ENOENT);
	CHECK(!posix_spawn(&pid, "/bin/sh", NULL, NULL, argv, environ));
	reap(pid, 5);
	pid = vfork();
	if (!pid) {
		execve("/bin/sh", argv, environ);
		_exit(99);
	}
	reap(pid, 5);
	CHECK(WEXITSTATUS(system("exit 3")) == 3);
}

/* threads */

static void *count_calls(void *arg)
{
	for (int i = 0; i < 50; i++)
		CHECK(getppid() == (pid_t)syscall(SYS_getppid));
	return arg;
}

static void t_threads(void)
{
	pthread_t t[8];
	int numbers[8];
	void *value;

	for (int i = 0; i < 8; i++)
		CHECK(!pthread_create(&t[i], NULL, count_calls, &numbers[i]));
	for (int i = 0; i < 8; i++)
		CHECK(!pthread_join(t[i], &value) && value == &numbers[i]);
}

/* a storm of signals, some of which leave by longjmp */

static sigjmp_buf away;
static volatile int storm, may_jump;

static void on_alarm(int sig)
{
	char c;

	(void)sig;
	storm++;
	CHECK(read(-1, &c, 1) == -1 && errno == EBADF);
	if (may_jump && storm % 7 == 0)
		siglongjmp(away, 1);
}

static void t_signals(void)
{
	struct sigaction act = { .sa_handler = on_alarm }, old;
	struct itimerval timer = { { 0, 500 }, { 0, 500 } }, off = { { 0, 0 }, { 0, 0 } };

	CHECK(!sigaction(SIGALRM, &act, &old));
	storm = 0;
	CHECK(!setitimer(ITIMER_REAL, &timer, NULL));
	while (storm < 100) {
		if (!sigsetjmp(away, 1)) {
			may_jump = 1;
			(void)getppid();
			(void)syscall(SYS_sched_yield);
		}
		may_jump = 0;
	}
	CHECK(!setitimer(ITIMER_REAL, &off, NULL));
	CHECK(!sigaction(SIGALRM, &old, NULL));
}

/* libraries and code that come later */

static const char *plug;

static void t_dlopen(void)
{
	for (int i = 0; i < 5; i++) {
		void *lib = dlopen(plug, RTLD_NOW);
		long (*call)(long) = lib ? (long (*)(long))dlsym(lib, "plug_call") : NULL;

		CHECK(call && call(SYS_getpid) == getpid());
		CHECK(lib && !dlclose(lib));
	}
}

static void t_mapped(void)
{
	/* mov $39, %eax; syscall; mov %rax, %rdx; mov %rdx, %rax; ret */
	static const unsigned char code[] = { 0xb8, 39,	  0,	0,    0,    0x0f, 5,	0x48,
					      0x89, 0xc2, 0x48, 0x89, 0xd0, 0xc3, 0x90, 0x90 };
	char *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	long (*call)(void) = (long (*)(void))at;

	CHECK(at != MAP_FAILED);
	memcpy(at, code, sizeof(code));
	CHECK(!mprotect(at, 4096, PROT_READ | PROT_EXEC));
	for (int i = 0; i < 3; i++)
		CHECK(call() == getpid());
	CHECK(!munmap(at, 4096));
}

static const struct {
	const char *name;
	void (*run)(void);
} tests[] = {
	{ "sites", t_sites },	  { "jumps", t_jumps },		{ "numbers", t_numbers },
	{ "cancel", t_cancel },	  { "backtrace", t_backtrace }, { "interrupted", t_interrupted },
	{ "stopped", t_stopped }, { "clone", t_clone },		{ "forks", t_forks },
	{ "exec", t_exec },	  { "threads", t_threads },	{ "signals", t_signals },
	{ "entry", t_entry },	  { "dlopen", t_dlopen },	{ "mapped", t_mapped },
};

static volatile int busy;
static int nbusy;
static pthread_t workers[16];

static void *work(void *arg)
{
	while (busy) {
		CHECK(getppid() == (pid_t)syscall(SYS_getppid));
		CHECK(close(-1) == -1 && errno == EBADF);
	}
	return arg;
}

static void obey(const char *name, int times)
{
	if (!strcmp(name, "busy")) { /* threads that go on making calls, or (0) their end */
		busy = 0;
		while (nbusy)
			pthread_join(workers[--nbusy], NULL);
		busy = times > 0;
		for (; nbusy < times && nbusy < 16; nbusy++)
			CHECK(!pthread_create(&workers[nbusy], NULL, work, NULL));
	}
	for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++)
		for (int n = 0; n < times && !strcmp(tests[i].name, name); n++)
			tests[i].run();
	if (wrong[0])
		printf("%s: %s\n", name, wrong);
	else
		printf("ran %s\n", name);
	wrong[0] = 0;
}

int main(int argc, char **argv)
{
	char line[256], name[64];
	int times;

	plug = argc > 1 ? argv[1] : "";
	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("ready");
	while (fgets(line, sizeof(line), stdin))
		if (sscanf(line, "%63s %d", name, &times) == 2)
			obey(name, times);
	return 0;
}
