/*
 * target: functions with known first instructions, and their cost when they are told to run.
 *
 * Each line on stdin is a function's name; the answer is one line "NAME NS", the lower quartile
 * of 21 chunks of about 300 µs of thread CPU time, in ns a call, loop included. Ends at the end
 * of stdin.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { CHUNKS = 21, CHUNK_NS = 300000 };

/* Ten bytes or so each, with what compilers put at the start of a function. */
#define FUNCTION(name, code) \
	long name(long x); \
	__asm__(".pushsection .text; .p2align 5; .globl " #name "; .type " #name ", @function\n" #name \
		":\n" code "\n.size " #name ", . - " #name "; .popsection")

FUNCTION(f_nop5, ".byte 0x0f,0x1f,0x44,0x00,0x00; lea 1(%rdi), %rax; ret");
FUNCTION(f_push, "push %rbp; mov %rsp, %rbp; lea 1(%rdi), %rax; pop %rbp; ret");
FUNCTION(f_mov, "mov %rdi, %rax; add $1, %rax; nop; ret");
FUNCTION(f_endbr, "endbr64; push %rbx; lea 1(%rdi), %rax; pop %rbx; ret");

static const struct {
	const char *name;
	long (*call)(long);
} functions[] = {
	{ "f_nop5", f_nop5 },
	{ "f_push", f_push },
	{ "f_mov", f_mov },
	{ "f_endbr", f_endbr },
};

static long long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static double chunk(long (*call)(long), long n)
{
	long long start = now();
	long x = 0;

	for (long i = 0; i < n; i++)
		x = call(x);
	if (x != n)
		abort();
	return (double)(now() - start) / (double)n;
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double measure(long (*call)(long))
{
	double ns[CHUNKS], one = chunk(call, 64);
	long n;

	one = chunk(call, one > 0 ? (long)(CHUNK_NS / 4 / one) + 1 : 1000);
	n = (long)(CHUNK_NS / one) + 1;
	for (int i = 0; i < CHUNKS; i++)
		ns[i] = chunk(call, n);
	qsort(ns, CHUNKS, sizeof(ns[0]), ascending);
	return ns[CHUNKS / 4];
}

int main(void)
{
	char line[64];

	printf("pid %d\n", getpid());
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = '\0';
		for (unsigned int i = 0; i < sizeof(functions) / sizeof(functions[0]); i++)
			if (!strcmp(line, functions[i].name))
				printf("%s %.2f\n", line, measure(functions[i].call));
		fflush(stdout);
	}
	return 0;
}
