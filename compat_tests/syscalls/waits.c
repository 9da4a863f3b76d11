/* Calls that wait: cancelled, looked at by a handler, interrupted, restarted, left by longjmp. */
#define _GNU_SOURCE
#include <execinfo.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "caller.h"

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

void t_cancel(void)
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

void t_backtrace(void)
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

static volatile int *handled; /* the children see it */

static void handle(int sig)
{
	(void)sig;
	++*handled;
	CHECK(getppid() == (pid_t)syscall(SYS_getppid));
}

/* Until the process waits in that call. For its child, which ends with it. */
static void await_call(pid_t parent, long nr)
{
	char path[64], text[64];
	long in = -1;

	snprintf(path, sizeof(path), "/proc/%d/syscall", parent);
	while (in != nr) {
		int fd = open(path, O_RDONLY);
		ssize_t n = read(fd, text, sizeof(text) - 1);

		close(fd);
		if (n <= 0 || getppid() != parent)
			_exit(1);
		text[n] = 0;
		if (sscanf(text, "%ld", &in) != 1)
			in = -1; /* it runs */
		sched_yield();
	}
}

/* A child that sends two signals: one while its parent waits in the first call, one in the second. */
static pid_t signaller(long first, long second)
{
	pid_t parent = getpid(), pid = fork();

	if (pid)
		return pid;
	await_call(parent, first);
	kill(parent, SIGUSR2);
	await_call(parent, second);
	kill(parent, SIGUSR2);
	_exit(0);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

void t_interrupted(void)
{
	struct sigaction act = { .sa_handler = handle }, old;
	struct timespec wait = { 30, 0 }, left = { 0, 0 };
	int p[2], status;
	pid_t parent = getpid(), pid;
	sigset_t none;
	char c;

	handled = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(handled != MAP_FAILED);
	CHECK(!pipe(p) && !sigaction(SIGUSR2, &act, &old));
	*handled = 0;
	pid = signaller(SYS_read, SYS_clock_nanosleep);
	CHECK(read(p[0], &c, 1) == -1 && errno == EINTR);
	CHECK(nanosleep(&wait, &left) == -1 && errno == EINTR && left.tv_sec > 0);
	CHECK(waitpid(pid, &status, 0) == pid && !status && *handled == 2);
	act.sa_flags = SA_RESTART;
	CHECK(!sigaction(SIGUSR2, &act, NULL));
	*handled = 0;
	pid = fork();
	if (!pid) {
		await_call(parent, SYS_read);
		kill(parent, SIGUSR2);
		while (!*handled)
			sched_yield();
		await_call(parent, SYS_read);
		_exit(write(p[1], "x", 1) != 1);
	}
	CHECK(read(p[0], &c, 1) == 1 && c == 'x' && *handled == 1); /* ERESTARTSYS */
	CHECK(waitpid(pid, &status, 0) == pid && !status);
	*handled = 0;
	pid = signaller(SYS_pause, SYS_rt_sigsuspend);
	CHECK(pause() == -1 && errno == EINTR && *handled == 1); /* ERESTARTNOHAND */
	sigemptyset(&none);
	CHECK(sigsuspend(&none) == -1 && errno == EINTR && *handled == 2);
	CHECK(waitpid(pid, &status, 0) == pid && !status);
	close(p[0]);
	close(p[1]);
	CHECK(!sigaction(SIGUSR2, &old, NULL));
	CHECK(!munmap((void *)handled, 4096));
}

/* ERESTART_RESTARTBLOCK: stopped and continued while it waits */
void t_stopped(void)
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

void t_signals(void)
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
