/*
 * A function in which nothing but int3 fits: each of its first instructions is one byte, something
 * jumps to the next, and no jump that begins there leads to memory, linked at a fixed address.
 */
unsigned long tiny(unsigned char *buf, unsigned long x); /* *buf = x; x + 1 */

__asm__(".text\n"
	".globl tiny\n"
	".type tiny, @function\n"
	"tiny:	push %rbx\n"
	"1:	pop %rbx\n"
	"2:	stc\n"
	"3:	cmc\n"
	"4:	stc\n"
	"5:	xchg %eax, %esi\n"
	"6:	stosb\n"
	"7:	nop\n"
	"8:	nop\n	nop\n	nop\n	nop\n"
	"	adc $0, %rax\n"
	"	mov %rax, -8(%rsp)\n"
	"	mov -8(%rsp), %rax\n"
	"	ret\n"
	".size tiny, . - tiny\n"
	".globl dead\n"
	".type dead, @function\n"
	"dead:	jmp 1b\n	jmp 2b\n	jmp 3b\n	jmp 4b\n	jmp 5b\n"
	"	jmp 6b\n	jmp 7b\n	jmp 8b\n"
	".size dead, . - dead\n");
