/*
 * target CPU: functions with known first instructions, and their cost when they are told to run.
 *
 * Each line on stdin is a function's name; the answer is one line "NAME NS", the lower quartile
 * of 21 chunks of about 300 µs of thread CPU time, in ns a call, loop included. "NAME drained"
 * makes chunks that a ring buffer of 256 KiB has room for: after each, a line "full" asks that it
 * be emptied, and the next line on stdin says that it was. Runs on that CPU alone, and ends at the
 * end of stdin.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { CHUNKS = 21, CHUNK_NS = 300000, RECORDS = 3000 };

/* Ten bytes or so each, with what compilers put at the start of a function. */
#define FUNCTION(name, code) \
	long name(long x); \
	__asm__(".pushsection .text; .p2align 5; .globl " #name "; .type " #name ", @function\n" #name \
		":\n" code "\n.size " #name ", . - " #name "; .popsection")

FUNCTION(f_nop5, ".byte 0x0f,0x1f,0x44,0x00,0x00; lea 1(%rdi), %rax; ret");
FUNCTION(f_push, "push %rbp; mov %rsp, %rbp; lea 1(%rdi), %rax; pop %rbp; ret");
FUNCTION(f_mov, "mov %rdi, %rax; add $1, %rax; nop; ret");
FUNCTION(f_endbr, "endbr64; push %rbx; lea 1(%rdi), %rax; pop %rbx; ret");

/* A probe bench:two as <sys/sdt.h> writes it, with two arguments. */
FUNCTION(f_usdt, "mov %rdi, %rax; .globl bench_two; bench_two: nop; add $1, %rax; ret");
__asm__(".pushsection .note.stapsdt, \"?\", \"note\"\n"
	".balign 4\n"
	".4byte 992f-991f, 994f-993f, 3\n"
	"991: .asciz \"stapsdt\"\n"
	"992: .balign 4\n"
	"993: .8byte bench_two, _.stapsdt.base, 0\n"
	".asciz \"bench\"\n"
	".asciz \"two\"\n"
	".asciz \"8@%rdi -4@%eax\"\n"
	"994: .balign 4\n"
	".popsection\n"
	".pushsection .stapsdt.base, \"aG\", \"progbits\", .stapsdt.base, comdat\n"
	".weak _.stapsdt.base\n"
	".hidden _.stapsdt.base\n"
	"_.stapsdt.base: .space 1\n"
	".popsection\n");

static long f_getppid(long x)
{
	getppid();
	return x + 1;
}

/* What a class may read of it: so many bytes. */
struct bench_text {
	unsigned long len;
	const char *data;
};

long f_text(const struct bench_text *text);
FUNCTION(f_text_, ".globl f_text; .type f_text, @function; f_text: mov (%rdi), %rax; add $1, %rax; "
		  "nop; ret; .size f_text, . - f_text");

static long f_text_of(long x)
{
	static const struct bench_text text = { 20, "twenty bytes of text" };

	f_text(&text);
	return x + 1;
}

static const struct {
	const char *name;
	long (*call)(long);
} functions[] = {
	{ "f_nop5", f_nop5 }, { "f_push", f_push },	{ "f_mov", f_mov },	 { "f_endbr", f_endbr },
	{ "f_usdt", f_usdt }, { "getppid", f_getppid }, { "f_text", f_text_of },
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

static void drain(void)
{
	char line[64];

	printf("full\n");
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin))
		exit(1);
}

static double measure(long (*call)(long), int drained)
{
	double ns[CHUNKS], one = chunk(call, 64);
	long n;

	n = one > 0 ? (long)(CHUNK_NS / 4 / one) + 1 : 1000;
	one = chunk(call, drained && n > RECORDS - 64 ? RECORDS - 64 : n);
	n = (long)(CHUNK_NS / one) + 1;
	if (drained && n > RECORDS)
		n = RECORDS;
	for (int i = 0; i < CHUNKS; i++) {
		if (drained)
			drain();
		ns[i] = chunk(call, n);
	}
	if (drained)
		drain();
	qsort(ns, CHUNKS, sizeof(ns[0]), ascending);
	return ns[CHUNKS / 4];
}

int main(int argc, char **argv)
{
	char line[64], name[32], how[32];
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(argc > 1 ? atoi(argv[1]) : 0, &cpus);
	if (argc != 2 || sched_setaffinity(0, sizeof(cpus), &cpus)) {
		perror("target");
		return 2;
	}
	printf("pid %d\n", getpid());
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		int drained = sscanf(line, "%31s %31s", name, how) == 2;

		for (unsigned int i = 0; i < sizeof(functions) / sizeof(functions[0]); i++)
			if (!strcmp(name, functions[i].name))
				printf("%s %.3f\n", name, measure(functions[i].call, drained));
		fflush(stdout);
	}
	return 0;
}
