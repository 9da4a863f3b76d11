/*
 * libplug.so, where nothing but int3 fits at plug_work(): its first instruction is one byte, something
 * jumps to the next, and a jump that ends with the bytes behind it would lead into the library's own text.
 */
long plug_work(long x);

__asm__(".text\n"
	".globl plug_work\n"
	".type plug_work, @function\n"
	"plug_work:\n"
	"	push %rbx\n"
	"1:	.byte 0x05, 0x10, 0, 0, 0\n" /* add $0x10, %eax */
	"	pop %rbx\n"
	"	lea 100(%rdi), %rax\n"
	"	ret\n"
	".size plug_work, . - plug_work\n"
	".globl dead\n"
	".type dead, @function\n"
	"dead:	jmp 1b\n"
	"	.skip 0x3000, 0x90\n"
	"	ret\n"
	".size dead, . - dead\n");
