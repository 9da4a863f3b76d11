/* An application whose functions programs call: app N handles N requests. It prints what it has come
 * to, which no probe may change but by what the functions themselves do. "jump": some function does not
 * come back; "wait": it begins when its standard input ends; "vectors": it looks at vector registers;
 * a path: of a FIFO, whose end some function waits for. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct request {
	int number;
	int status;
	long tokens;
};
struct limits {
	int most;
	unsigned short least;
	struct request *last;
};

long served;
struct limits limits = { 40, 3, 0 };
static jmp_buf out;
static int leave;
static const char *fifo;

#define ALL(of) \
	of(0) of(1) of(2) of(3) of(4) of(5) of(6) of(7) of(8) of(9) of(10) of(11) of(12) of(13) of(14) \
		of(15)
#define UPPER(of) \
	of(16) of(17) of(18) of(19) of(20) of(21) of(22) of(23) of(24) of(25) of(26) of(27) of(28) \
		of(29) of(30) of(31)
#define MASKS(of) of(1) of(2) of(3) of(4) of(5) of(6) of(7)

#define SPOIL_X(n) "pcmpeqd %%xmm" #n ", %%xmm" #n "\n\t"
#define SPOIL_Y(n) "vcmptrueps %%ymm" #n ", %%ymm" #n ", %%ymm" #n "\n\t"
#define SPOIL_Z(n) "vpternlogd $255, %%zmm" #n ", %%zmm" #n ", %%zmm" #n "\n\t"
#define SPOIL_K(n) "kxnorq %%k" #n ", %%k" #n ", %%k" #n "\n\t"

static int level; /* of the registers that there are: 0: SSE, 1: AVX, 2: AVX-512 */

/* Changes every register that a function may change: general, vector, x87. */
__attribute__((noipa)) long spoil(long n)
{
	double all[8];
	long double deep = n;

	__asm__ volatile(ALL(SPOIL_X) "mov $-1, %%r10\n\tmov $-1, %%r11\n\tmov $-1, %%r9\n\t"
				      "mov $-1, %%r8" ::
					      : "r8", "r9", "r10", "r11", "memory");
	if (level == 1)
		__asm__ volatile(ALL(SPOIL_Y) "vzeroupper" ::: "memory");
	if (level == 2) /* and leaves them so */
		__asm__ volatile(ALL(SPOIL_Z) UPPER(SPOIL_Z) MASKS(SPOIL_K) "nop" ::: "memory");
	for (int i = 0; i < 8; i++)
		all[i] = n * 1.5 + i;
	for (int i = 0; i < 8; i++)
		deep = deep * all[i] / (all[i] + 1);
	/* an aligned vector store on the stack: faults if that is not as it should be */
	__asm__ volatile("sub $24, %%rsp\n\tmovaps %%xmm0, (%%rsp)\n\tadd $24, %%rsp" ::: "memory");
	return n + (deep > 0);
}

__attribute__((noipa)) long five(long a, int b, short c, unsigned char d, signed char e)
{
	return a + 10L * b + 100L * c + 1000L * d + 10000L * e;
}

/* What is above the type's width is whatever it is. */
__attribute__((noipa)) signed char low_byte(long n)
{
	__asm__ volatile("" : "+r"(n));
	return (signed char)n;
}

__attribute__((noipa)) unsigned short low_half(long n)
{
	return (unsigned short)n;
}

__attribute__((noipa)) int low_word(long n)
{
	return (int)n;
}

__attribute__((noipa)) int is(_Bool really)
{
	return really;
}

__attribute__((noipa)) void count(struct request *r, long more)
{
	r->tokens += more;
}

__attribute__((noipa)) struct request *newest(void)
{
	return limits.last;
}

__attribute__((noipa)) int fill(char *to, unsigned long size, const char *from)
{
	memset(to, 'x', size);
	memcpy(to, from, size < 4 ? size : 4);
	return size;
}

__attribute__((noipa)) void jump_out(int n)
{
	int fd = fifo ? open(fifo, O_RDONLY) : -1;
	char c;

	if (leave)
		longjmp(out, n);
	while (fd >= 0 && read(fd, &c, 1) > 0)
		;
	if (fd >= 0)
		close(fd);
	fifo = NULL;
}

__attribute__((noipa)) double app_price(struct request *r, double a, double b, float c)
{
	return r->number + a * 2 + b * 3 + c;
}

__attribute__((noipa)) long double app_exact(struct request *r)
{
	return r->number + 0.25L;
}

__attribute__((noipa)) int app_handle(struct request *r)
{
	served++;
	return r->status;
}

#define LOAD_X(n) "movups 64*" #n "(%[in]), %%xmm" #n "\n\t"
#define STORE_X(n) "movups %%xmm" #n ", 64*" #n "(%[out])\n\t"
#define LOAD_Y(n) "vmovups 64*" #n "(%[in]), %%ymm" #n "\n\t"
#define STORE_Y(n) "vmovups %%ymm" #n ", 64*" #n "(%[out])\n\t"
#define LOAD_Z(n) "vmovups 64*" #n "(%[in]), %%zmm" #n "\n\t"
#define STORE_Z(n) "vmovups %%zmm" #n ", 64*" #n "(%[out])\n\t"
#define LOAD_K(n) "kmovq 2048+8*" #n "(%[in]), %%k" #n "\n\t"
#define STORE_K(n) "kmovq %%k" #n ", 2048+8*" #n "(%[out])\n\t"
#define GENERAL "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc"
#define CALL "sub $128, %%rsp\n\tmov %[r], %%rdi\n\tcall app_handle\n\tadd $128, %%rsp\n\t"
#define AROUND(load, store) \
	__asm__ volatile(load CALL store ::[r] "b"(r), [in] "r"(in), [out] "r"(out) : GENERAL)

/* Is every register that the machine has, up to that level, what it was before the function? Those above
 * are in nobody's use: so whoever keeps registers has fewer to keep. */
__attribute__((noinline)) static int changed(struct request *r, int upto)
{
	static unsigned char none[4096] __attribute__((aligned(64)));
	register unsigned char *in __asm__("r12"), *out __asm__("r13");
	static unsigned char before[2112], after[2112];
	unsigned short control = 0x27f, usual = 0x37f, seen = 0;

	in = before;
	out = after;
	for (int i = 0; i < 2112; i++)
		before[i] = i * 7 + r->number + upto;
	memset(after, 0, sizeof(after));
	*(unsigned *)(none + 24) = 0x1f80;
	if (level && upto < 2) /* 5 to 7: AVX-512; 2: AVX */
		__asm__ volatile("xrstor64 %0" ::"m"(none), "a"(upto ? 0xe1 : 0xe5), "d"(0));
	if (upto == 3)
		__asm__ volatile("fldcw %0" ::"m"(control));
	if (upto == 0)
		AROUND(ALL(LOAD_X), ALL(STORE_X));
	else if (upto == 1)
		AROUND(ALL(LOAD_Y), ALL(STORE_Y) "vzeroupper");
	else
		AROUND(ALL(LOAD_Z) UPPER(LOAD_Z) MASKS(LOAD_K),
		       ALL(STORE_Z) UPPER(STORE_Z) MASKS(STORE_K) "vzeroupper");
	__asm__ volatile("fnstcw %0" : "=m"(seen));
	__asm__ volatile("fldcw %0" ::"m"(usual));
	if (seen != (upto == 3 ? control : usual))
		return 1;
	for (int i = 0; i < (upto < 2 ? 16 : 32); i++)
		if (memcmp(before + 64 * i, after + 64 * i, upto < 2 ? 16 << upto : 64))
			return 1;
	return upto > 1 && memcmp(before + 2056, after + 2056, 56);
}

__attribute__((noipa)) long again(long n)
{
	struct request inner = { (int)n, 0, 0 };

	app_handle(&inner);
	return inner.tokens;
}

int main(int argc, char **argv)
{
	const char *mode = argc > 2 ? argv[2] : "";
	double price = 0;
	long double exact = 0;
	long tokens = 0, jumps = 0, bad = 0;

	leave = !strcmp(mode, "jump");
	fifo = strchr(mode, '/');
	while (!strcmp(mode, "wait") && getchar() != EOF)
		;
	level = __builtin_cpu_supports("avx512bw") ? 2 : __builtin_cpu_supports("avx") ? 1 : 0;
	for (int i = 0; i < (argc > 1 ? atoi(argv[1]) : 1); i++) {
		struct request r = { i, 200, 0 };

		limits.last = &r;
		for (int upto = 0; strcmp(mode, "vectors") == 0 && upto <= (level == 2 ? 3 : level);
		     upto++)
			bad += changed(&r, upto);
		price += app_price(&r, i * 0.5, i + 0.125, i * 0.25f);
		exact += app_exact(&r);
		if (setjmp(out))
			jumps++;
		else
			app_handle(&r);
		tokens += r.tokens;
	}
	printf("price %.3f exact %.2Lf tokens %ld served %ld jumps %ld bad %ld\n", price, exact, tokens,
	       served, jumps, bad);
	return 0;
}
