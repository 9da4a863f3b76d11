/*
 * deep: calls outer -> middle -> inner -> leaf, in each of three ways, ten times; built with frame
 * pointers. leaf begins with a push of rbp, bare with something else.
 */
#define EXPORT __attribute__((noinline, noclone, noipa, visibility("default")))

static volatile long sink;

EXPORT long leaf(long x)
{
	sink = x;
	return x + 1;
}

EXPORT long bare(long x);
__asm__(".pushsection .text; .p2align 4; .globl bare; .type bare, @function\n"
	"bare: lea 2(%rdi), %rax; nop; nop; nop; ret\n"
	".size bare, . - bare; .popsection");

EXPORT long inner(long x)
{
	return leaf(x) + bare(x);
}

EXPORT long middle(long x)
{
	return inner(x) * 2;
}

EXPORT long outer(long x)
{
	return middle(x) + (x & 1 ? inner(x) : 0);
}

/* Frames of every depth. */
EXPORT long down(long n)
{
	return n ? down(n - 1) + 1 : leaf(0);
}

int main(void)
{
	long sum = 0;

	for (long i = 0; i < 10; i++)
		sum += outer(i);
	for (long n = 0; n < 200; n += 40)
		sum += down(n);
	return sum == 0;
}
