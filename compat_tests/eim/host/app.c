/* An application whose functions programs call: app N handles N requests. It prints what it has come
 * to, which no probe may change but by what the functions themselves do. "jump": some function does not
 * come back; "wait": it begins when its standard input ends. */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

/* Changes every register that a function may change: general, vector, x87. */
__attribute__((noipa)) long spoil(long n)
{
	double all[8];
	long double deep = n;

	__asm__ volatile("pcmpeqd %%xmm0, %%xmm0\n\tmovdqa %%xmm0, %%xmm1\n\t"
			 "movdqa %%xmm0, %%xmm2\n\tmovdqa %%xmm0, %%xmm3\n\t"
			 "movdqa %%xmm0, %%xmm4\n\tmovdqa %%xmm0, %%xmm5\n\t"
			 "movdqa %%xmm0, %%xmm6\n\tmovdqa %%xmm0, %%xmm7\n\t"
			 "movdqa %%xmm0, %%xmm8\n\tmovdqa %%xmm0, %%xmm15\n\t"
			 "mov $-1, %%r10\n\tmov $-1, %%r11\n\tmov $-1, %%r9\n\tmov $-1, %%r8" ::
				 : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",
				   "xmm8", "xmm15", "r8", "r9", "r10", "r11", "memory");
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
	if (leave)
		longjmp(out, n);
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

__attribute__((noipa)) long again(long n)
{
	struct request inner = { (int)n, 0, 0 };

	app_handle(&inner);
	return inner.tokens;
}

int main(int argc, char **argv)
{
	double price = 0;
	long double exact = 0;
	long tokens = 0, jumps = 0;

	leave = argc > 2 && !strcmp(argv[2], "jump");
	while (argc > 2 && !leave && getchar() != EOF)
		;
	for (int i = 0; i < (argc > 1 ? atoi(argv[1]) : 1); i++) {
		struct request r = { i, 200, 0 };

		limits.last = &r;
		price += app_price(&r, i * 0.5, i + 0.125, i * 0.25f);
		exact += app_exact(&r);
		if (setjmp(out))
			jumps++;
		else
			app_handle(&r);
		tokens += r.tokens;
	}
	printf("price %.3f exact %.2Lf tokens %ld served %ld jumps %ld\n", price, exact, tokens, served,
	       jumps);
	return 0;
}
