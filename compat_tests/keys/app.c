/*
 * An application that is extended, on a machine with protection keys: calls `one` and `two` as it is
 * told on stdin, a line an answer, and tries what it can reach of the extension's memory.
 *
 * run N: calls one N times. touch: for each kind of mapping of the shim's, what reading and writing it
 * led to: 0, or the signal's code. read: the same of reading. pkru: the register. handler N: one is called until a handler,
 * in which it is called too, has run N times. threads N: by each thread that was there from the
 * beginning. open N: a thread that gives itself the rights to all keys. fork: a child does the rest of
 * the line. clone: a thread that is new. table: the table of links.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

enum { THREADS = 2, KINDS = 8 };

__attribute__((noipa)) long one(long x)
{
	return x + 1;
}

__attribute__((noipa)) long two(long x)
{
	return 2 * one(x);
}

static unsigned pkru(void)
{
	unsigned low, high;

	__asm__ volatile("rdpkru" : "=a"(low), "=d"(high) : "c"(0));
	return low;
}

/* Called by a program: what this function may reach then. */
__attribute__((noipa)) long rights(void)
{
	return pkru();
}

static void run(long n)
{
	for (long i = 0; i < n; i++)
		if (one(i) != i + 1)
			abort();
}

static sigjmp_buf back;
static volatile int code;

static void on_fault(int signo, siginfo_t *info, void *context)
{
	(void)signo, (void)context;
	code = info->si_code;
	siglongjmp(back, 1);
}

/* 0: fine; else si_code. */
static int tried(volatile char *at, int writes)
{
	code = 0;
	if (!sigsetjmp(back, 1)) {
		if (writes)
			*at = *at;
		else
			(void)*at;
	}
	return code;
}

static int written(volatile char *at)
{
	code = 0;
	if (!sigsetjmp(back, 1))
		*at = 0;
	return code;
}

/* writes: else reading alone is tried. */
static void touch(int writes)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[512], *name, *seen[KINDS];
	unsigned long at;
	int n = 0;

	while (fgets(line, sizeof(line), maps)) {
		name = strstr(line, "/memfd:bpf-");
		if (!name || sscanf(line, "%lx", &at) != 1 || !strstr(line, "rw-s"))
			continue;
		name[strcspn(name, " \n")] = 0;
		for (int i = 0; i < n; i++)
			if (!strcmp(seen[i], name))
				name = NULL, i = n;
		if (!name || n == KINDS)
			continue;
		seen[n++] = strdup(name);
		printf("%s:%d:%d ", name + 11, tried((char *)at, 0), writes ? written((char *)at) : 0);
	}
	fclose(maps);
	printf("\n");
}

/* struct shim_agent: sites and links are its third and fourth words. */
static void table(void)
{
	void *handle = dlopen(getenv("LD_PRELOAD"), RTLD_NOLOAD | RTLD_NOW);
	unsigned long *root = handle ? dlsym(handle, "shim_agent_root") : NULL;

	if (!root)
		printf("none\n");
	else
		printf("sites:%d:%d links:%d:%d\n", tried((char *)root[2], 0),
		       tried((char *)root[2], 1), tried((char *)root[3], 0), tried((char *)root[3], 1));
}

static volatile long handled, called;

static void on_alarm(int signo)
{
	(void)signo;
	handled++;
	run(1);
}

static void handler(long n)
{
	struct itimerval every = { { 0, 1000 }, { 0, 1000 } }, none = { 0 };

	handled = called = 0;
	setitimer(ITIMER_REAL, &every, NULL);
	while (handled < n)
		run(100), called += 100;
	setitimer(ITIMER_REAL, &none, NULL);
	printf("handled %ld called %ld\n", handled, called + handled);
}

static pthread_barrier_t barrier;
static volatile long rounds;

static void *thread(void *unused)
{
	(void)unused;
	for (;;) {
		pthread_barrier_wait(&barrier);
		run(rounds);
		pthread_barrier_wait(&barrier);
	}
	return NULL;
}

static void *stranger(void *n)
{
	unsigned before, after;

	__asm__ volatile("wrpkru" : : "a"(0), "c"(0), "d"(0));
	before = pkru();
	run((long)n);
	after = pkru();
	printf("open %x %x\n", before, after);
	touch(1);
	return NULL;
}

static void *fresh(void *unused)
{
	(void)unused;
	run(1);
	touch(1);
	return NULL;
}

static void in_thread(void *(*start)(void *), long n)
{
	pthread_t made;

	pthread_create(&made, NULL, start, (void *)n);
	pthread_join(made, NULL);
}

static void command(const char *line)
{
	long n = strchr(line, ' ') ? atol(strchr(line, ' ')) : 0;
	pid_t child;

	if (!strncmp(line, "run", 3)) {
		run(n);
		printf("ran %ld\n", n);
	} else if (!strncmp(line, "two", 3)) {
		for (long i = 0; i < n; i++)
			two(i);
		printf("ran %ld\n", n);
	} else if (!strncmp(line, "touch", 5)) {
		touch(1);
	} else if (!strncmp(line, "read", 4)) {
		touch(0);
	} else if (!strncmp(line, "table", 5)) {
		table();
	} else if (!strncmp(line, "pkru", 4)) {
		printf("%x\n", pkru());
	} else if (!strncmp(line, "handler", 7)) {
		handler(n);
	} else if (!strncmp(line, "threads", 7)) {
		rounds = n;
		pthread_barrier_wait(&barrier);
		pthread_barrier_wait(&barrier);
		printf("ran %ld\n", n * THREADS);
	} else if (!strncmp(line, "open", 4)) {
		in_thread(stranger, n);
	} else if (!strncmp(line, "clone", 5)) {
		in_thread(fresh, 0);
	} else if (!strncmp(line, "fork ", 5)) {
		child = fork();
		if (!child) {
			command(line + 5);
			fflush(stdout);
			_exit(0);
		}
		waitpid(child, NULL, 0);
	}
}

int main(int argc, char **argv)
{
	struct sigaction fault = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
	struct sigaction alarm = { .sa_handler = on_alarm, .sa_flags = SA_RESTART };
	pthread_t made;
	char line[64];

	sigaction(SIGSEGV, &fault, NULL);
	sigaction(SIGALRM, &alarm, NULL);
	pthread_barrier_init(&barrier, NULL, THREADS + 1);
	for (int i = 0; i < THREADS; i++)
		pthread_create(&made, NULL, thread, NULL);
	if (argc > 1) { /* one command */
		command(argv[1]);
		return 0;
	}
	printf("ready\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		command(line);
		fflush(stdout);
	}
	return 0;
}
