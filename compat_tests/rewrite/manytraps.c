/*
 * 300 functions at 32 bytes each, at whose beginnings nothing but int3 fits, as in traplib.c. Answers each
 * line with "called", after one call of each.
 */
#include <stdio.h>

enum { FUNCTIONS = 300, APART = 32 };

extern char tiny0[];

__asm__(".text\n"
	".altmacro\n"
	".macro one n\n"
	".globl tiny\\n\n"
	".type tiny\\n, @function\n"
	"tiny\\n:\n"
	"	push %rbx\n"
	"1:	.byte 0x05, 0x10, 0, 0, 0\n" /* add $0x10, %eax */
	"	pop %rbx\n"
	"	ret\n"
	"	jmp 1b\n"
	".size tiny\\n, . - tiny\\n\n"
	".balign 32, 0x90\n"
	".endm\n"
	".balign 32\n"
	".set number, 0\n"
	".rept 300\n"
	"	one %number\n"
	"	.set number, number + 1\n"
	".endr\n"
	".noaltmacro\n"
	".skip 0x3000, 0x90\n"
	"	ret\n");

int main(void)
{
	char line[64];

	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("ready");
	while (fgets(line, sizeof(line), stdin)) {
		for (int i = 0; i < FUNCTIONS; i++)
			((void (*)(void))(tiny0 + APART * i))();
		puts("called");
	}
	return 0;
}
