/* start_target: a thousand functions s_0 to s_999; says its pid and waits for the end of stdin. */
#include <stdio.h>
#include <unistd.h>

__asm__(".altmacro\n"
	".macro function number\n"
	".globl s_\\number\n"
	".type s_\\number, @function\n"
	".p2align 4\n"
	"s_\\number: push %rbx; mov %rdi, %rax; pop %rbx; ret\n"
	".size s_\\number, . - s_\\number\n"
	".endm\n"
	".set index, 0\n"
	".rept 1000\n"
	"function %index\n"
	".set index, index + 1\n"
	".endr\n"
	".noaltmacro\n");

int main(void)
{
	char byte;

	printf("pid %d\n", getpid());
	fflush(stdout);
	while (read(0, &byte, 1) > 0)
		;
	return 0;
}
