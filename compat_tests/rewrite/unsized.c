/* Functions of assembly that say neither how long they are nor how they are unwound: where they end is not known. */
#include <stdio.h>
#include <stdlib.h>

#define FUNCTION(name, body) ".p2align 4\n.globl " name "\n.type " name ", @function\n" name ":\n" body

__asm__(".text\n" FUNCTION("plain", "lea 1(%rdi), %rax\n\tret\n") FUNCTION(
	"far_jump", "endbr64\n\t.byte 0xe9\n\t.long plain - . - 4\n") FUNCTION("near_jump",
									       "endbr64\n\tjmp plain\n")
		FUNCTION("compares",
			 "endbr64\n\tcmpb $0, flag(%rip)\n\tjne 1f\n\tlea 1(%rdi), %rax\n1:\tret\n")
			FUNCTION("moves", "endbr64\n\tmov %rdi, %rax\n\tinc %rax\n\tret\n")
				FUNCTION("loops",
					 "endbr64\n1:\tdec %rsi\n\tnop\n\tnop\n\tjnz 1b\n\tlea "
					 "1(%rdi), %rax\n\tret\n") ".data\nflag:\t.byte 0\n.text\n");

/* The window of a jump would hold a place that is jumped to. */
__asm__(FUNCTION(
	"turns",
	"xor %eax, %eax\n1:\tinc %eax\n\tcmp %rsi, %rax\n\tjne 1b\n\tlea 1(%rdi), %rax\n\tret\n"));

/* The same place, named by a table that is not aligned. */
__asm__(FUNCTION("tabled",
		 "xor %eax, %eax\n1:\tinc %eax\n\tcmp %rsi, %rax\n\tje 2f\n\tlea table(%rip), %rdx\n"
		 "\tmovslq 4(%rdx), %rcx\n\tadd %rdx, %rcx\n\tjmp *%rcx\n2:\tlea 1(%rdi), %rax\n\tret\n"
		 ".pushsection .rodata\n.balign 4\n.short 7\ntable:\t.long 2b - table, 1b - table\n"
		 ".popsection\n"));

long plain(long, long), far_jump(long, long), near_jump(long, long), compares(long, long),
	moves(long, long), loops(long, long), turns(long, long), tabled(long, long);

int main(int argc, char **argv)
{
	long (*const all[])(long, long) = { plain, far_jump, near_jump, compares,
					    moves, loops,    turns,	tabled };
	long n = argc > 1 ? atol(argv[1]) : 1, wrong = 0;

	for (long i = 0; i < n; i++)
		for (unsigned int k = 0; k < sizeof(all) / sizeof(all[0]); k++)
			wrong += all[k](i, 3) != i + 1;
	printf("%ld\n", wrong);
	return 0;
}
