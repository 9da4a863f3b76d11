/*
 * busy [KIND...]: a thread of each KIND, which checks what it does; then for each byte of stdin the
 * line "WRONG WORK": how many checks failed, and how much was done. "ready" once all threads run.
 * At a byte 's' they all stand between two steps when the line comes, and go on at the next byte.
 *
 * Kinds: hot (nothing), heap (malloc and free), load (dlopen and dlclose), nap (sleeps that must not be
 * interrupted), ping and pong (eventfds; tick: a ping that sleeps in between), fork, vfork, spin, deaf
 * (all signals blocked), told (signals, SA_RESTART, inside of read), wait (pause() until a signal
 * comes, which must end it),
 * segv (a SIGSEGV handler of its own, on an alternative stack, which it needs), come (threads that
 * begin and end), late (a main thread that has ended: the others go on), steady (no thread: libc
 * keeps the memory that it once had, so that the process's size depends on us alone).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef sigev_notify_thread_id /* glibc */
#define sigev_notify_thread_id _sigev_un._tid
#endif

unsigned long asked(unsigned long number);
void *stepped(void *what);

static atomic_ulong work;
static atomic_uint wrong;
static int events[2], pipes[2];

static void check(int right, const char *what)
{
	if (right)
		return;
	perror(what);
	wrong++;
}

static void heap(void)
{
	char *p[64];
	int k;

	for (k = 0; k < 64; k++) {
		p[k] = malloc(16 + k * 977 % 9000);
		memset(p[k], k, 16);
	}
	for (k = 0; k < 64; k++) {
		check(p[k][3] == k, "heap");
		free(p[k]);
	}
}

#ifndef NO_DLOPEN
static void load(void)
{
	void *library = dlopen("libm.so.6", RTLD_NOW | RTLD_LOCAL);

	check(library && dlsym(library, "cos"), "dlopen");
	if (library)
		dlclose(library);
	usleep(100);
}
#endif

static void nap(void)
{
	struct timespec t = { 0, 1000000 };
	struct pollfd nothing = { .fd = -1 };

	check(!nanosleep(&t, NULL), "nanosleep");
	check(!poll(&nothing, 1, 1), "poll");
}

static void ping(void)
{
	unsigned long v = 1;

	check(write(events[0], &v, 8) == 8, "write");
	check(read(events[1], &v, 8) == 8, "read");
}

static void tick(void)
{
	usleep(200);
	ping();
}

static void pong(void)
{
	unsigned long v;

	check(read(events[0], &v, 8) == 8, "read");
	v = 1;
	check(write(events[1], &v, 8) == 8, "write");
}

static void forks(void)
{
	pid_t pid = fork();
	int status;

	if (!pid)
		_exit(7);
	check(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 7, "fork");
}

static void vforks(void)
{
	pid_t pid = vfork();
	int status;

	if (!pid)
		_exit(7);
	check(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 7, "vfork");
	usleep(1000);
}

static void *brief(void *arg)
{
	check(getppid() > 0, "getppid");
	sched_yield();
	return arg;
}

static void come(void)
{
	pthread_t thread;
	void *result = NULL;

	check(!pthread_create(&thread, NULL, brief, &result), "pthread_create");
	check(!pthread_join(thread, &result) && result == &result, "pthread_join");
	usleep(500);
}

static void spin(void)
{
	volatile int i;

	for (i = 0; i < 100000; i++)
		;
}

static void deaf(void)
{
	sigset_t all, now;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, NULL);
	usleep(200);
	pthread_sigmask(SIG_BLOCK, NULL, &now);
	check(sigismember(&now, SIGUSR1) == 1 && sigismember(&now, SIGTERM) == 1, "mask");
}

static volatile sig_atomic_t caught;

static void on_signal(int number)
{
	(void)number;
	caught++;
}

static void *teller(void *whom)
{
	char c = 1;

	for (;;) {
		pthread_kill(*(pthread_t *)whom, SIGUSR1);
		usleep(300);
		check(write(pipes[1], &c, 1) == 1, "write");
	}
	return NULL;
}

static void told(void)
{
	static _Thread_local pthread_t self, other;
	char c;

	if (!self) {
		self = pthread_self();
		pthread_create(&other, NULL, teller, &self);
	}
	check(read(pipes[0], &c, 1) == 1, "read, restarted");
}

/* A timer's signal, once, while the thread is inside of pause(): nothing may swallow it. */
static void waits(void)
{
	struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR2 };
	struct itimerspec soon = { .it_value = { 0, 3000000 } };
	sigset_t usr2, before;
	timer_t timer;

	event.sigev_notify_thread_id = gettid();
	sigemptyset(&usr2);
	sigaddset(&usr2, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, &usr2, &before);
	check(!timer_create(CLOCK_MONOTONIC, &event, &timer), "timer_create");
	check(!timer_settime(timer, 0, &soon, NULL), "timer_settime");
	sigdelset(&before, SIGUSR2);
	check(sigsuspend(&before) == -1 && errno == EINTR, "sigsuspend");
	pthread_sigmask(SIG_UNBLOCK, &usr2, NULL);
	timer_delete(timer);
}

static _Thread_local sigjmp_buf out_of_it;

static void on_segv(int number)
{
	siglongjmp(out_of_it, number);
}

static void segv(void)
{
	static _Thread_local char space[16384];
	stack_t stack = { .ss_sp = space, .ss_size = sizeof(space) };
	struct sigaction sa = { .sa_handler = on_segv, .sa_flags = SA_ONSTACK };
	volatile int *nothing = NULL;
	int came = sigsetjmp(out_of_it, 1);

	if (!came) {
		sigaltstack(&stack, NULL);
		sigaction(SIGSEGV, &sa, NULL);
		came = *nothing;
	}
	check(came == SIGSEGV, "SIGSEGV");
	usleep(200);
}

static void hot(void)
{
}

static const struct {
	const char *name;
	void (*step)(void);
} kinds[] = {
	{ "heap", heap },  { "hot", hot },	{ "nap", nap },	  { "ping", ping }, { "pong", pong },
	{ "fork", forks }, { "vfork", vforks }, { "spin", spin }, { "deaf", deaf }, { "told", told },
	{ "wait", waits }, { "segv", segv },	{ "come", come }, { "tick", tick },
#ifndef NO_DLOPEN
	{ "load", load },
#endif
};

/* Called by every thread after each of its steps. */
__attribute__((noinline)) void *stepped(void *what)
{
	__asm__ volatile(".byte 0x0f, 0x1f, 0x44, 0x00, 0x08" : "+r"(what));
	return what;
}

static pthread_barrier_t started;
static pthread_barrier_t gate;
static atomic_int closed;

/* Between two steps: until the gate is open again. */
static void stand(void)
{
	pthread_barrier_wait(&gate);
	pthread_barrier_wait(&gate);
}

static void *forever(void *arg)
{
	void (*step)(void) = *(void (**)(void))arg;

	step();
	pthread_barrier_wait(&started);
	for (;;) {
		step();
		check(stepped(&step) == (void *)&step, "stepped");
		work++;
		if (closed && step != pong) /* ping stands: pong waits for it */
			stand();
	}
	return NULL;
}

/* Called once for each byte of stdin: what tools count. */
__attribute__((noinline)) unsigned long asked(unsigned long number)
{
	__asm__ volatile(".byte 0x0f, 0x1f, 0x44, 0x00, 0x08" : "+r"(number)); /* room for a jump */
	return number * 3 + 1;
}

static void *talk(void *arg)
{
	unsigned long number = 0;
	unsigned long done = 0;
	char c;

	(void)arg;
	puts("ready");
	fflush(stdout);
	while (read(0, &c, 1) == 1) {
		unsigned long now = work;

		if (closed) {
			closed = 0;
			pthread_barrier_wait(&gate);
		} else if (c == 's') {
			closed = 1;
			pthread_barrier_wait(&gate);
		}

		check(asked(number) == number * 3 + 1, "asked");
		number++;
		printf("%u %lu\n", wrong, now - done);
		fflush(stdout);
		done = now;
	}
	_exit(wrong != 0);
}

/* Nothing is given back, and there is more than will be needed. */
static void keep_memory(void)
{
#ifdef __GLIBC__
	mallopt(M_ARENA_MAX, 1);
	mallopt(M_MMAP_THRESHOLD, 32 << 20);
	mallopt(M_TRIM_THRESHOLD, 1 << 30);
	free(malloc(16 << 20));
#endif
}

static int is_thread(const char *kind)
{
	return strcmp(kind, "late") && strcmp(kind, "steady");
}

int main(int argc, char **argv)
{
	struct sigaction sa = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
	int i, late = 0, nthreads = 0, nstanding = 0;
	pthread_t thread;
	size_t k;

	sigaction(SIGUSR1, &sa, NULL);
	sa.sa_flags = 0;
	sigaction(SIGUSR2, &sa, NULL);
	events[0] = eventfd(0, 0);
	events[1] = eventfd(0, 0);
	if (pipe(pipes))
		return 2;
	for (i = 1; i < argc; i++) {
		nthreads += is_thread(argv[i]);
		nstanding += is_thread(argv[i]) && strcmp(argv[i], "pong");
		if (!strcmp(argv[i], "steady"))
			keep_memory();
	}
	pthread_barrier_init(&started, NULL, nthreads + 1);
	pthread_barrier_init(&gate, NULL, nstanding + 1);
	for (i = 1; i < argc; i++) {
		late |= !strcmp(argv[i], "late");
		for (k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++)
			if (!strcmp(argv[i], kinds[k].name))
				pthread_create(&thread, NULL, forever, (void *)&kinds[k].step);
	}
	pthread_barrier_wait(&started);
	if (late) {
		pthread_create(&thread, NULL, talk, NULL);
		pthread_exit(NULL);
	}
	talk(NULL);
}
