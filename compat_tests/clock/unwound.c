/*
 * unwound PLUGIN: calls leaf() in many ways, and each time says first what libgcc's unwinder makes of
 * the stack: the return addresses from leaf's on. Built without frame pointers. It stays on one CPU, so that
 * all records are in one ring: bpftrace prints nothing that it reads after exit(), of whichever ring.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <execinfo.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORT __attribute__((noinline, noclone, noipa, visibility("default")))
#define TELL tell(__func__)

static volatile long sink;

EXPORT long leaf(long x)
{
	sink += x;
	return x + 1;
}

/* Of its caller, whose next call is leaf(): without this frame and without the caller's own address. */
static void tell(const char *from)
{
	void *frame[64];
	int n = backtrace(frame, 64);

	printf("%s", from);
	for (int i = 2; i < n; i++)
		printf(" %lx", (unsigned long)frame[i]);
	printf("\n");
}

EXPORT long straight(long x)
{
	TELL;
	return leaf(x) * 2;
}

EXPORT long done(long x)
{
	return x + 1;
}

/* 40 KiB of stack, and a frame pointer for what the array's size makes of rsp. */
EXPORT long wide(long x)
{
	char page[40000], some[x + 100];

	memset(page, 1, sizeof(page));
	memset(some, 2, sizeof(some));
	__asm__ volatile("" : : "r"(page), "r"(some) : "memory");
	return straight(x) + page[x] + some[1];
}

/* The stack is aligned by hand, so the caller's is found through memory. */
EXPORT long aligned(long x)
{
	char line[128] __attribute__((aligned(128))), some[x + 100];

	__asm__ volatile("" : : "r"(line), "r"(some) : "memory");
	return straight(x) + line[0] * 0 + some[0] * 0;
}

EXPORT int compare(const void *a, const void *b)
{
	straight(3);
	return *(const int *)a - *(const int *)b;
}

EXPORT long sorted(long x)
{
	int pair[2] = { 2, (int)x };

	qsort(pair, 2, sizeof(int), compare);
	return pair[0];
}

EXPORT void handler(int number)
{
	aligned(number);
}

/* Interrupted where rsp has just moved; on the stack there is, or on one of the handler's own. */
EXPORT long interrupted(long x)
{
	raise(SIGUSR1);
	return x + 1;
}

static void *in_thread(void *unused)
{
	wide(7);
	return unused;
}

EXPORT long deep(long n)
{
	return n ? deep(n - 1) + 1 : straight(n);
}

int main(int argc, char **argv)
{
	static char stack[65536];
	struct sigaction action = { .sa_handler = handler };
	stack_t other = { .ss_sp = stack, .ss_size = sizeof(stack) };
	long (*plugged)(long (*)(long), long);
	pthread_t thread;
	void *plugin;
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	if (argc != 2 || sched_setaffinity(0, sizeof(one), &one))
		return 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	straight(1);
	wide(2);
	aligned(3);
	sorted(4);
	deep(20);
	sigaction(SIGUSR1, &action, NULL);
	interrupted(5);
	sigaltstack(&other, NULL);
	action.sa_flags = SA_ONSTACK;
	sigaction(SIGUSR1, &action, NULL);
	interrupted(6);
	pthread_create(&thread, NULL, in_thread, NULL);
	pthread_join(thread, NULL);
	plugin = dlopen(argv[1], RTLD_NOW);
	plugged = plugin ? (long (*)(long (*)(long), long))dlsym(plugin, "plugged") : NULL;
	if (!plugged)
		return 3;
	plugged(wide, 8);
	dlclose(plugin);
	plugin = dlopen(argv[1], RTLD_NOW);
	plugged = (long (*)(long (*)(long), long))dlsym(plugin, "plugged");
	plugged(straight, 9);
	done(0);
	pause(); /* whoever looks for names of addresses finds the process */
	return 0;
}
