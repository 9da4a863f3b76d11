/*
 * Code of many shapes, probed at every instruction by test_every_instruction.py. Everything that
 * counts is named c_*, and is a pure function of its arguments, so that a probe that changes
 * anything changes the sum.
 *
 *	corpus		obeys lines on stdin: "sum N" -> "sum HEX", "threads N" -> "threads N" (they go
 *			on until "stop" -> "stopped BAD"), "bytes" -> "bytes HEX" (a hash of the text)
 *	corpus steps N	under its own single step: "ADDRESS COUNT" of each instruction in its text
 *			(addresses as linked), then "sum HEX"
 */
#define _GNU_SOURCE
#include <alloca.h>
#include <link.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define PROBED __attribute__((noinline, noclone, visibility("default")))
typedef uint64_t u64;

u64 c_total, c_zero;
unsigned char c_byte;
static const char digits[] = "0123456789abcdef";

PROBED u64 c_switch(u64 x)
{
	switch (x % 12) {
	case 0: return x * 3;
	case 1: return x ^ 0x55;
	case 2: return x + c_zero;
	case 3: return x << 3;
	case 4: return ~x;
	case 5: return x * x;
	case 6: return x >> 5 | x << 59;
	case 7: return -x;
	case 8: return x / 7;
	case 9: return x % 13;
	default: return x - 1;
	}
}

PROBED u64 c_goto(u64 x)
{
	static const void *const table[] = { &&add, &&mul, &&rot, &&xor, &&out };
	const unsigned char code[] = { 0, 1, 2, 0, 3, 2, 1, 3, 0, 4 };
	int at = 0;

	goto *table[code[at]];
add:
	x += 17;
	goto *table[code[++at]];
mul:
	x *= 31;
	goto *table[code[++at]];
rot:
	x = x << 7 | x >> 57;
	goto *table[code[++at]];
	xor : x ^= 0x1234567;
	goto *table[code[++at]];
out:
	return x;
}

PROBED u64 c_rip(u64 x)
{
	c_total += x;
	if (c_byte)
		c_byte = 0;
	else
		c_byte = 7;
	return c_total ^ c_byte ^ (u64)digits[x % 16];
}

PROBED u64 c_leaf(const u64 *v, u64 n)
{
	u64 a[12];

	for (int i = 0; i < 12; i++) /* in the red zone */
		a[i] = v[i % 4] + n * i;
	n = 0;
	for (int i = 0; i < 12; i++)
		n = n * 5 + a[i];
	return n;
}

PROBED u64 c_text(u64 x)
{
	char buf[24];
	u64 h = 5381;
	int n = 0;

	do
		buf[n++] = digits[x & 15];
	while (x >>= 4);
	for (int i = 0; i < n; i++)
		h = h * 33 + (unsigned char)buf[i];
	return h;
}

PROBED u64 c_recurse(u64 n)
{
	return n < 2 ? n : c_recurse(n - 1) + c_recurse(n - 2);
}

PROBED u64 c_va(int n, ...)
{
	va_list ap;
	u64 sum = 0;

	va_start(ap, n);
	for (int i = 0; i < n; i++)
		sum = sum * 3 + (i & 1 ? (u64)(va_arg(ap, double) * 8) : va_arg(ap, u64));
	va_end(ap);
	return sum;
}

PROBED double c_float(double a, double b)
{
	return a > b ? a * b + 0.5 : (b - a) / (a + 3.0);
}

PROBED unsigned __int128 c_wide(unsigned __int128 a, u64 b)
{
	return a * b + (a >> 3);
}

PROBED u64 c_stack(u64 n)
{
	u64 *v = alloca((n % 9 + 1) * sizeof(*v)), sum = 0;

	for (u64 i = 0; i <= n % 9; i++)
		v[i] = i * n;
	for (u64 i = 0; i <= n % 9; i++)
		sum ^= v[i] + i;
	return sum;
}

static u64 (*const ways[])(u64) = { c_switch, c_goto, c_rip, c_text, c_stack };

PROBED u64 c_way(u64 x)
{
	return ways[x % 5](x) + 1;
}
PROBED u64 c_tail(u64 x)
{
	return x & 1 ? c_switch(x) : ways[x % 5](x + 1);
}

static jmp_buf env;

__attribute__((noreturn)) PROBED void c_throw(u64 x)
{
	longjmp(env, (int)(x % 5) + 1);
}

PROBED u64 c_jump(u64 x)
{
	int got = setjmp(env);

	if (!got)
		c_throw(x);
	return x + (u64)got;
}

PROBED u64 c_rare(u64 x)
{
	if (__builtin_expect(x % 64 == 63, 0)) {
		char text[32];

		snprintf(text, sizeof(text), "%llx", (unsigned long long)x);
		return c_text(x) + strlen(text);
	}
	return x + 2;
}

PROBED void c_many(u64 *a, u64 b, u64 c, u64 d, u64 e, u64 f, u64 g, u64 h)
{
	*a = b + 2 * c + 3 * d + 5 * e + 7 * f + 11 * g + 13 * h;
}

u64 c_asm_flags(u64 a, u64 b);
u64 c_asm_loop(u64 n);
u64 c_asm_lock(u64 *p);
u64 c_asm_string(u64 *to, const u64 *from, u64 n);
u64 c_asm_sys(void);
u64 c_asm_indirect(u64 x);
u64 c_asm_tiny(u64 x);
u64 c_asm_five(u64 x);
u64 c_asm_into(u64 x);
u64 c_asm_dense(u64 x);

__asm__(".text\n"
	".macro func name\n.globl \\name\n.type \\name, @function\n\\name:\n\t.cfi_startproc\n.endm\n"
	".macro done name\n\t.cfi_endproc\n\t.size \\name, . - \\name\n.endm\n"
	/* flags live from one instruction to the next, and below the stack pointer lie data */
	".p2align 4\nfunc c_asm_flags\n"
	"\tmov %rdi, -8(%rsp)\n\tmov %rsi, -16(%rsp)\n\tadd %rsi, %rdi\n\tadc $0, %rsi\n"
	"\tsbb %rax, %rax\n\tlea (%rax,%rdi), %rdi\n\tsetc %al\n\tmov $3, %ecx\n\tstc\n"
	"1:\tadc %rdi, %rax\n\trcl $1, %rsi\n\tdec %ecx\n\tjnz 1b\n"
	"\tadc -8(%rsp), %rax\n\txor -16(%rsp), %rax\n\tcmp %rsi, %rax\n\tcmovb %rsi, "
	"%rax\n\tret\ndone c_asm_flags\n"
	/* loop, jrcxz, one-byte instructions between targets */
	".p2align 4\nfunc c_asm_loop\n"
	"\tmov %rdi, %rcx\n\txor %eax, %eax\n\tjrcxz 3f\n1:\tinc %rax\n\tloop 1b\n"
	"2:\tpush %rbx\n\tpop %rbx\n\tdec %rdi\n\tjg 2b\n\tlea 7(%rax), %rax\n3:\tret\ndone "
	"c_asm_loop\n"
	/* a branch over a lock prefix */
	".p2align 4\nfunc c_asm_lock\n"
	"\tmov $1, %eax\n\ttestb $1, (%rdi)\n\tje 1f\n\t.byte 0xf0\n1:\txaddq %rax, "
	"(%rdi)\n\tret\ndone c_asm_lock\n"
	".p2align 4\nfunc c_asm_string\n"
	"\tmov %rdx, %rcx\n\tcld\n\trep movsq\n\tmov %rdx, %rcx\n\tstd\n\tsub $8, %rdi\n\tsub $8, "
	"%rsi\n"
	"\txor %eax, %eax\n1:\tlodsq\n\tadd (%rdi), %rax\n\tsub $8, %rdi\n\tdec %rcx\n\tjnz "
	"1b\n\tcld\n\tret\ndone c_asm_string\n"
	".p2align 4\nfunc c_asm_sys\n"
	"\tmov $102, %eax\n\tsyscall\n\tcmp $-4096, %rax\n\tja 1f\n\tmov $186, %eax\n\tpush "
	"%rbp\n\tsyscall\n"
	"\tpop %rbp\n\txor %eax, %eax\n\tret\n1:\tmov $-1, %eax\n\tret\ndone c_asm_sys\n"
	".p2align 4\nfunc c_asm_indirect\n"
	"\tsub $8, %rsp\n\tlea c_asm_tiny(%rip), %rax\n\tcall *%rax\n\tmov %rax, %rdi\n\tlea 1f(%rip), "
	"%rdx\n"
	"\tpush %rdx\n\tjmp c_asm_five\n1:\tlea c_asm_five(%rip), %r11\n\tmov %rax, %rdi\n\tmov %r11, "
	"(%rsp)\n"
	"\tcall *(%rsp)\n\tadd $8, %rsp\n\tret\ndone c_asm_indirect\n"
	/* packed: no byte between them */
	"func c_asm_tiny\n\tlea 3(%rdi), %rax\n\tret\ndone c_asm_tiny\n"
	"func c_asm_two\n\tnop\n\tret\ndone c_asm_two\n"
	"func c_asm_one\n\tret\ndone c_asm_one\n"
	"func c_asm_five\n\txor %eax, %eax\n\tadd %rdi, %rax\n\tjmp c_asm_last\ndone c_asm_five\n"
	"func c_asm_last\n\tcall c_asm_two\n\tcall c_asm_one\n\tret\ndone c_asm_last\n"
	".p2align 4\nfunc c_asm_into\n"
	"\tmov %rdi, %rax\n\tand $1, %edi\n\tlea 2f(%rip), %rdx\n\tlea (%rdx,%rdi,4), %rdx\n\tjmp "
	"*%rdx\n"
	"2:\tadd $1, %rax\n3:\tadd $2, %rax\n\tret\ndone c_asm_into\n"
	/* a target every two or three bytes */
	".p2align 4\nfunc c_asm_dense\n"
	"\tmov $5, %ecx\n1:\tinc %eax\n\ttest $1, %cl\n\tjz 3f\n2:\tadd %ecx, %eax\n\tjnc "
	"3f\n\tnop\n3:\tdec %ecx\n\tjz 4f\n"
	"\ttest %edi, %edi\n\tjz 2b\n\tjmp 1b\n4:\tmov %edi, %eax\n\tret\ndone c_asm_dense\n"
	".p2align 4\n");

PROBED u64 c_run(u64 seed)
{
	u64 v[4] = { seed, seed * 3, seed ^ 99, ~seed }, to[4] = { 0 }, lock = seed, sum = 0;
	unsigned __int128 wide;

	for (u64 i = 0; i < 24; i++)
		sum = sum * 7 + c_switch(seed + i) + c_way(seed + i) + c_tail(seed * i);
	sum ^= c_goto(seed) + c_rip(seed) + c_leaf(v, seed) + c_text(seed) + c_recurse(seed % 5 + 4);
	sum += c_va(4, seed, 2.5, seed + 1, (double)(seed % 9));
	sum ^= (u64)(c_float((double)(seed % 100), 7.25) * 1000);
	wide = c_wide((unsigned __int128)seed << 40, seed | 1);
	sum += (u64)wide ^ (u64)(wide >> 64);
	sum = sum * 3 + c_stack(seed) + c_jump(seed) + c_rare(seed);
	c_many(&v[0], 1, seed, 3, 4, 5, 6, seed * 7);
	sum ^= v[0] + c_asm_flags(seed, sum) + c_asm_loop(seed % 6) + c_asm_lock(&lock) + lock;
	sum += c_asm_string(to, v, 4) + to[2] + c_asm_sys() + c_asm_indirect(seed);
	sum ^= c_asm_into(seed) * 5 + c_asm_dense(seed % 3);
	return sum;
}

static u64 sum_of(long rounds)
{
	u64 sum = 0;

	c_total = c_byte = 0;
	for (long i = 0; i < rounds; i++)
		sum = sum * 1000003 + c_run((u64)i * 2654435761u + 11);
	return sum;
}

static volatile int stopping;
static pthread_t workers[16];
static int nworkers;

/* what does not use the globals */
static u64 alone(u64 x)
{
	u64 v[4] = { x, x * 3, x ^ 99, ~x };

	return c_switch(x) + c_goto(x) * 3 + c_leaf(v, x) + c_text(x) + c_recurse(x % 4 + 3) +
	       c_stack(x) + c_asm_flags(x, 77) + c_asm_loop(x % 6) + c_asm_indirect(x) + c_asm_into(x) +
	       c_asm_dense(x % 3);
}

static void *work(void *unused)
{
	static u64 right[64];
	long bad = 0;
	u64 own[64];

	(void)unused;
	(void)right;
	for (u64 i = 0; i < 64; i++)
		own[i] = alone(i * 977);
	while (!stopping)
		for (u64 i = 0; i < 64; i++)
			bad += own[i] != alone(i * 977);
	return (void *)bad;
}

static void threads(int n)
{
	stopping = 0;
	for (nworkers = 0; nworkers < n && nworkers < 16; nworkers++)
		if (pthread_create(&workers[nworkers], NULL, work, NULL))
			abort();
	printf("threads %d\n", nworkers);
}

static void stop(void)
{
	long bad = 0;
	void *got;

	stopping = 1;
	while (nworkers) {
		pthread_join(workers[--nworkers], &got);
		bad += (long)got;
	}
	printf("stopped %ld\n", bad);
}

static const unsigned char *text;
static u64 text_size, bias;

static int look(struct dl_phdr_info *info, size_t size, void *unused)
{
	(void)size;
	(void)unused;
	for (int i = 0; i < info->dlpi_phnum; i++)
		if (info->dlpi_phdr[i].p_type == PT_LOAD && info->dlpi_phdr[i].p_flags & PF_X) {
			text = (const unsigned char *)info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
			text_size = info->dlpi_phdr[i].p_memsz;
			bias = info->dlpi_addr;
		}
	return 1; /* the first is the program */
}

static void bytes(void)
{
	u64 h = 14695981039346656037ull;

	for (u64 i = 0; i < text_size; i++)
		h = (h ^ text[i]) * 1099511628211ull;
	printf("bytes %llx\n", (unsigned long long)h);
}

static int steps(long rounds)
{
	u64 *count = calloc(text_size, sizeof(*count));
	struct user_regs_struct regs;
	int status;
	pid_t pid = fork();

	if (!pid) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		u64 sum = sum_of(rounds);
		raise(SIGSTOP);
		printf("sum %llx\n", (unsigned long long)sum);
		fflush(stdout);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	for (;;) {
		ptrace(PTRACE_SINGLESTEP, pid, 0, 0);
		waitpid(pid, &status, 0);
		if (!WIFSTOPPED(status) || WSTOPSIG(status) != SIGTRAP)
			break;
		ptrace(PTRACE_GETREGS, pid, 0, &regs);
		if (regs.rip - (u64)text < text_size)
			count[regs.rip - (u64)text]++;
	}
	for (u64 i = 0; i < text_size; i++)
		if (count[i])
			printf("%llx %llu\n", (unsigned long long)((u64)text + i - bias),
			       (unsigned long long)count[i]);
	fflush(stdout);
	ptrace(PTRACE_DETACH, pid, 0, 0);
	waitpid(pid, &status, 0);
	return status;
}

int main(int argc, char **argv)
{
	char line[256];

	dl_iterate_phdr(look, NULL);
	if (argc > 2 && !strcmp(argv[1], "steps"))
		return steps(atol(argv[2]));
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		if (!strncmp(line, "sum ", 4))
			printf("sum %llx\n", (unsigned long long)sum_of(atol(line + 4)));
		else if (!strncmp(line, "threads ", 8))
			threads(atoi(line + 8));
		else if (!strncmp(line, "stop", 4))
			stop();
		else if (!strncmp(line, "bytes", 5))
			bytes();
		fflush(stdout);
	}
	return 0;
}
