/*
 * machine: what single instructions cost here, ns each, a line "ns NAME" for each; the lower quartile of 41
 * chunks of 4,096 in a row, each behind the one before, of thread CPU time. A chain of additions is a
 * cycle each. Needs fsgsbase and rdpid, as hits without a system call do.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { CHUNKS = 41, TIMES = 4096 };

static long word;

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Sixteen at a time, so that the loop's own cost is hidden beside them. */
#define COSTS(name, text) \
	static void name(void) \
	{ \
		for (int i = 0; i < TIMES / 16; i++) \
			__asm__ volatile(".rept 16\n\t" text "\n\t.endr" \
					 : "+m"(word) \
					 : \
					 : "rax", "rcx", "rdx", "r8", "cc", "memory"); \
	}

COSTS(addition, "add %%rcx, %%r8")
COSTS(store, "mov %%r8, %0")
COSTS(forwarded, "mov %%r8, %0\n\tmov %0, %%r8")
COSTS(locked_add, "lock addq $1, %0")
COSTS(locked_exchange, "mov %%r8, %%rax\n\tlock cmpxchg %%r8, %0")
COSTS(flags_kept, "pushfq\n\tpop %%r8")
COSTS(flags_back, "pushfq\n\tpopfq")
COSTS(fs_base, "rdfsbase %%r8")
COSTS(cpu_number, "rdpid %%r8")
COSTS(time_stamp, "rdtsc")
COSTS(time_ordered, "lfence\n\trdtsc")
static const struct {
	const char *name;
	void (*run)(void);
} rows[] = {
	{ "add (a cycle)", addition },
	{ "mov to memory", store },
	{ "mov to memory and back", forwarded },
	{ "lock add", locked_add },
	{ "lock cmpxchg", locked_exchange },
	{ "pushfq, pop", flags_kept },
	{ "pushfq, popfq", flags_back },
	{ "rdfsbase", fs_base },
	{ "rdpid", cpu_number },
	{ "rdtsc", time_stamp },
	{ "lfence, rdtsc", time_ordered },
};

int main(void)
{
	double took[CHUNKS];

	for (unsigned int r = 0; r < sizeof(rows) / sizeof(rows[0]); r++) {
		rows[r].run();
		for (int i = 0; i < CHUNKS; i++) {
			double began = now();

			rows[r].run();
			took[i] = (now() - began) / TIMES;
		}
		qsort(took, CHUNKS, sizeof(took[0]), by_value);
		printf("%.2f %s\n", took[CHUNKS / 4], rows[r].name);
	}
	return 0;
}
