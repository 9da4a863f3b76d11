/*
 * Functions with what the rewriter's disassembler does not know, or misreads: instructions of newer
 * processors, a trap with operands; and one too large to be decoded. Behind it, where nothing may be
 * overlooked, stands a jump back to between the instructions that the function begins with.
 */
#include <stdio.h>
#include <stdlib.h>

#define FUNCTION(name, body) \
	".p2align 4\n.globl " name "\n.type " name ", @function\n" name ":\n.cfi_startproc\n" body \
	".cfi_endproc\n.size " name ", . - " name "\n"
/* Counts to its second argument; never executes what stands between. */
#define AROUND(bytes) \
	"xor %eax, %eax\n1:\tinc %eax\n\tjmp 2f\n\t.byte " bytes "\n2:\tcmp %rsi, %rax\n\tjne " \
	"1b\n\tlea 1(%rdi), %rax\n\tret\n"

__asm__(".text\n" FUNCTION("half_floats", AROUND("0x62, 0xf5, 0x6c, 0x48, 0x58, 0xcb"))
		FUNCTION("tiles", AROUND("0xc4, 0xe2, 0x7b, 0x4b, 0x0c, 0x18"))
			FUNCTION("traps", AROUND("0x67, 0x0f, 0xb9, 0x40, 0x05")));

/* The window would hold the place that the table's only row leads to, by way of its base. */
__asm__(FUNCTION("computes",
		 "xor %eax, %eax\n1:\tinc %eax\n\tcmp %rsi, %rax\n\tje 2f\n\t"
		 "jmp 3f\n\t.byte 0x62, 0xf5, 0x6c, 0x48, 0x58, 0xcb\n3:\tlea 2f(%rip), %rdx\n\t"
		 "add back(%rip), %rdx\n\tjmp *%rdx\n2:\tlea 1(%rdi), %rax\n\tret\n"
		 ".pushsection .rodata\nback:\t.quad 1b - 2b\n.popsection\n"));

/* Its second entry is a function of its own, into which the first jumps. */
__asm__(FUNCTION("vast", "jmp 1f\n\t.fill 1100000, 1, 0x90\n1:\txor %eax, %eax\n\tjmp 3f\n"
			 ".globl in_vast\n.type in_vast, @function\n"
			 "in_vast:\n\txor %eax, %eax\n3:\tadd %edi, %eax\n\tinc %rax\n\tret\n"
			 ".size in_vast, . - in_vast\n"));

long half_floats(long, long), tiles(long, long), traps(long, long), computes(long, long),
	vast(long, long), in_vast(long, long);

int main(int argc, char **argv)
{
	long (*const all[])(long, long) = { half_floats, tiles, traps, computes, vast, in_vast };
	long n = argc > 1 ? atol(argv[1]) : 1, wrong = 0;

	for (long i = 0; i < n; i++)
		for (unsigned int k = 0; k < sizeof(all) / sizeof(all[0]); k++)
			wrong += all[k](i, 3) != i + 1;
	printf("%ld\n", wrong);
	return 0;
}
