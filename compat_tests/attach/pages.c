/*
 * Probed by test_pages.py: forty functions, p_0 to p_39, on three pages; the last one's first
 * instruction is on two. Obeys lines on stdin:
 *	sum	calls all of them: "sum N"
 *	bytes	"bytes N": a digest of all their bytes
 */
#include <stdio.h>
#include <string.h>

enum { FUNCTIONS = 40 };

__asm__(".text\n.altmacro\n"
	".macro function number\n"
	".globl p_\\number\n"
	".type p_\\number, @function\n"
	"p_\\number: mov $\\number, %eax; add %edi, %eax; ret\n"
	".size p_\\number, . - p_\\number\n"
	".endm\n"
	".p2align 12\n"
	"first:\n"
	".set index, 0\n"
	".rept 39\n"
	".p2align 8\n"
	"function %index\n"
	".set index, index + 1\n"
	".endr\n"
	".org first + 3 * 4096 - 2\n"
	"function 39\n"
	".noaltmacro\n"
	"last:\n"
	".pushsection .data.rel.ro, \"aw\"\n"
	"table:\n"
	".set index, 0\n"
	".altmacro\n"
	".macro entry number\n"
	".quad p_\\number\n"
	".endm\n"
	".rept 40\n"
	"entry %index\n"
	".set index, index + 1\n"
	".endr\n"
	".noaltmacro\n"
	".popsection\n");

extern int (*const table[FUNCTIONS])(int) __attribute__((visibility("hidden")));
extern const unsigned char first[], last[];

int main(void)
{
	char line[64];

	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("ready");
	while (fgets(line, sizeof(line), stdin)) {
		unsigned long sum = 14695981039346656037UL;

		if (!strcmp(line, "sum\n")) {
			sum = 0;
			for (int i = 0; i < FUNCTIONS; i++)
				sum += (unsigned long)table[i](1);
		} else {
			for (const unsigned char *at = first; at < last; at++)
				sum = (sum ^ *at) * 1099511628211UL;
		}
		printf("%.*s %lu\n", (int)strcspn(line, "\n"), line, sum);
	}
	return 0;
}
