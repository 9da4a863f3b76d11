/*
 * scales CPU CPU: what a function costs one thread alone, and two at once, each on a CPU of its own.
 *
 * A line on stdin is answered by "ns ALONE BOTH SHARE": ns a call in the first thread while the other
 * sleeps; ns a call, of the two threads together, while both run (so half of ALONE where neither is in
 * the other's way); and which part of the chunks counted. A chunk is about 300 µs in which the threads begin
 * together. On a machine that others use too, it counts only if no thread was kept from its CPU: its
 * wall clock says no more than its CPU time. Each figure is the lower quartile of 41 chunks, or of those that
 * there were in four seconds (of fewer than five there, those that come next count whatever happens).
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { CHUNKS = 41, LEAST = 5, CHUNK_NS = 300000 };
static const double LIMIT_NS = 4e9, KEPT = 1.03;

long f_nop5(long x);
__asm__(".pushsection .text; .p2align 5; .globl f_nop5; .type f_nop5, @function\n"
	"f_nop5: .byte 0x0f,0x1f,0x44,0x00,0x00; lea 1(%rdi), %rax; ret\n"
	".size f_nop5, . - f_nop5; .popsection");

struct chunk {
	double cpu, wall;
};

static struct chunk done[2];
static long calls; /* of a chunk; 0: the end */
static int here; /* threads that are at the next chunk's beginning */
static unsigned int turn, over;

static double now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static struct chunk chunk(long n)
{
	double wall = now(CLOCK_MONOTONIC), cpu = now(CLOCK_THREAD_CPUTIME_ID);
	long x = 0;

	for (long i = 0; i < n; i++)
		x = f_nop5(x);
	if (x != n)
		abort();
	cpu = now(CLOCK_THREAD_CPUTIME_ID) - cpu;
	return (struct chunk){ cpu, now(CLOCK_MONOTONIC) - wall };
}

static void pin(int cpu)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		exit(2);
}

/* Both threads leave it at the same moment. */
static void meet(unsigned int round)
{
	if (__atomic_add_fetch(&here, 1, __ATOMIC_SEQ_CST) == 2) {
		here = 0;
		__atomic_store_n(&turn, round, __ATOMIC_SEQ_CST);
	}
	while (__atomic_load_n(&turn, __ATOMIC_SEQ_CST) != round)
		;
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static bool wanted;

static void want(bool yes)
{
	pthread_mutex_lock(&lock);
	wanted = yes;
	pthread_cond_broadcast(&wake);
	pthread_mutex_unlock(&lock);
}

/* The second thread: sleeps until two are wanted. */
static void *other(void *cpu)
{
	unsigned int round = 0;

	pin((int)(long)cpu);
	for (;;) {
		pthread_mutex_lock(&lock);
		while (!wanted)
			pthread_cond_wait(&wake, &lock);
		pthread_mutex_unlock(&lock);
		for (;;) {
			meet(++round);
			if (!calls)
				break;
			done[1] = chunk(calls);
			meet(++round);
		}
		__atomic_store_n(&over, round, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static bool undisturbed(const struct chunk *c)
{
	return c->wall <= c->cpu * KEPT;
}

/* ns a call; both: of two threads. *share: of the chunks that counted. */
static double measure(bool both, double *share)
{
	static unsigned int round;
	double ns[CHUNKS], until = now(CLOCK_MONOTONIC) + LIMIT_NS, times;
	int n = 0, all = 0;

	if (both)
		want(true);
	for (; n < CHUNKS && (now(CLOCK_MONOTONIC) < until || n < LEAST); all++) {
		struct chunk c;

		if (both)
			meet(++round);
		c = done[0] = chunk(calls);
		if (both)
			meet(++round);
		times = (double)calls;
		if ((undisturbed(&c) && (!both || undisturbed(&done[1]))) ||
		    now(CLOCK_MONOTONIC) >= until)
			ns[n++] = both ? 1 / (times / c.wall + times / done[1].wall) : c.wall / times;
	}
	if (both) {
		long was = calls;

		want(false);
		calls = 0;
		meet(++round);
		while (__atomic_load_n(&over, __ATOMIC_SEQ_CST) != round)
			;
		calls = was;
	}
	qsort(ns, (size_t)n, sizeof(ns[0]), ascending);
	*share = (double)n / all;
	return ns[n / 4];
}

int main(int argc, char **argv)
{
	pthread_t second;
	char line[64];

	if (argc != 3)
		return 2;
	pin(atoi(argv[1]));
	if (pthread_create(&second, NULL, other, (void *)(long)atoi(argv[2])))
		return 2;
	printf("pid\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		double alone, share, of_both;
		struct chunk c;

		calls = 10000;
		c = chunk(calls);
		calls = (long)((double)CHUNK_NS / c.cpu * (double)calls) + 1;
		alone = measure(false, &share);
		of_both = measure(true, &share);
		printf("ns %.2f %.2f %.2f\n", alone, of_both, share);
		fflush(stdout);
	}
	return 0;
}
