/*
 * Functions that are never to be called begin with ud2, as compilers make them; called all the
 * same, they trap. ARGUMENT: how often. Prints the traps that were not met, by a handler that
 * leaves with siglongjmp. checks() has a trap that is not its beginning.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

__asm__(".text\n"
	".p2align 4\n.globl never\n.type never, @function\n"
	"never:\n.cfi_startproc\n\tud2\n.cfi_endproc\n.size never, . - never\n"
	".p2align 4\n.globl packed\n.type packed, @function\n"
	"packed:\n.cfi_startproc\n\tud2\n.cfi_endproc\n.size packed, . - packed\n"
	".type beside, @function\n"
	"beside:\n.cfi_startproc\n\tlea 1(%rdi), %rax\n\tret\n.cfi_endproc\n.size beside, . - beside\n"
	".fill 16, 1, 0xcc\n"
	".type checks, @function\n"
	"checks:\n.cfi_startproc\n\ttest %rdi, %rdi\n\tjs 1f\n\tret\n1:\tud2\n.cfi_endproc\n"
	".size checks, . - checks\n");

void never(void), packed(void);
long beside(long);
static sigjmp_buf back;

static void trapped(int sig)
{
	siglongjmp(back, sig);
}

int main(int argc, char **argv)
{
	void (*const all[])(void) = { never, packed };
	long n = argc > 1 ? atol(argv[1]) : 1;
	volatile long missing = 0;

	signal(SIGILL, trapped);
	for (volatile long i = 0; i < n; i++)
		for (volatile unsigned int k = 0; k < 2; k++) {
			missing += beside(i) - i;
			if (!sigsetjmp(back, 1))
				all[k]();
			missing--;
		}
	printf("%ld\n", missing);
	return 0;
}
