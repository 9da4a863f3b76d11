/*
 * scales CPU CPU...: what a function costs one thread alone, and all at once, each on a CPU of its own.
 *
 * A line on stdin is answered by "ns ALONE ALL SHARE": ns a call in the first thread while the others
 * sleep; ns a call, of the threads together, while all run (so half of ALONE where of two neither is in
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

enum { CHUNKS = 41, LEAST = 5, CHUNK_NS = 300000, MOST = 1024 };
static const double LIMIT_NS = 4e9, KEPT = 1.03;

long f_nop5(long x);
__asm__(".pushsection .text; .p2align 5; .globl f_nop5; .type f_nop5, @function\n"
	"f_nop5: .byte 0x0f,0x1f,0x44,0x00,0x00; lea 1(%rdi), %rax; ret\n"
	".size f_nop5, . - f_nop5; .popsection");

struct chunk {
	double cpu, wall;
};

static struct {
	_Alignas(64) struct chunk done;
	int cpu;
} threads[MOST];
static int nr_threads;
static long calls; /* of a chunk; 0: the end */
static int here; /* threads that are at the next chunk's beginning */
static int over; /* threads that have seen the end */
static unsigned int turn;

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

/* The threads leave it at the same moment. */
static void meet(unsigned int round)
{
	if (__atomic_add_fetch(&here, 1, __ATOMIC_SEQ_CST) == nr_threads) {
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

/* A thread but the first: sleeps until all are wanted. */
static void *other(void *number)
{
	long self = (long)number;
	unsigned int round = 0;

	pin(threads[self].cpu);
	for (;;) {
		pthread_mutex_lock(&lock);
		while (!wanted)
			pthread_cond_wait(&wake, &lock);
		pthread_mutex_unlock(&lock);
		for (;;) {
			meet(++round);
			if (!calls)
				break;
			threads[self].done = chunk(calls);
			meet(++round);
		}
		__atomic_add_fetch(&over, 1, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static bool undisturbed(int running)
{
	for (int i = 0; i < running; i++)
		if (threads[i].done.wall > threads[i].done.cpu * KEPT)
			return false;
	return true;
}

/* Lets the others sleep again. */
static void part(unsigned int round)
{
	long was = calls;

	want(false);
	calls = 0;
	meet(round);
	while (__atomic_load_n(&over, __ATOMIC_SEQ_CST) != nr_threads - 1)
		;
	over = 0;
	calls = was;
}

/* ns a call; all: of the threads together. *share: of the chunks that counted. */
static double measure(bool all, double *share)
{
	static unsigned int round;
	double ns[CHUNKS], until = now(CLOCK_MONOTONIC) + LIMIT_NS;
	int n = 0, chunks = 0, running = all ? nr_threads : 1;

	if (all)
		want(true);
	for (; n < CHUNKS && (now(CLOCK_MONOTONIC) < until || n < LEAST); chunks++) {
		double calls_a_ns = 0;

		if (all)
			meet(++round);
		threads[0].done = chunk(calls);
		if (all)
			meet(++round);
		if (!undisturbed(running) && now(CLOCK_MONOTONIC) < until)
			continue;
		for (int i = 0; i < running; i++)
			calls_a_ns += (double)calls / threads[i].done.wall;
		ns[n++] = 1 / calls_a_ns;
	}
	if (all)
		part(++round);
	qsort(ns, (size_t)n, sizeof(ns[0]), ascending);
	*share = (double)n / chunks;
	return ns[n / 4];
}

int main(int argc, char **argv)
{
	pthread_t thread;
	char line[64];

	nr_threads = argc - 1;
	if (nr_threads < 2 || nr_threads > MOST)
		return 2;
	for (int i = 0; i < nr_threads; i++)
		threads[i].cpu = atoi(argv[1 + i]);
	pin(threads[0].cpu);
	for (long i = 1; i < nr_threads; i++)
		if (pthread_create(&thread, NULL, other, (void *)i))
			return 2;
	printf("pid\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		double alone, share, of_all;

		calls = 10000;
		calls = (long)((double)CHUNK_NS / chunk(calls).cpu * (double)calls) + 1;
		alone = measure(false, &share);
		of_all = measure(true, &share);
		printf("ns %.2f %.2f %.2f\n", alone, of_all, share);
		fflush(stdout);
	}
	return 0;
}
