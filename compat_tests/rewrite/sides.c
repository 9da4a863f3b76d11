/*
 * Functions of one byte, side by side, and one of two instructions among them. Prints "ready", then for
 * each line "N" calls each of them its number + 1 times, N times, and answers "called".
 */
#include <stdio.h>
#include <stdlib.h>

#define ONE(name, code) \
	".globl " #name "\n.type " #name ", @function\n" #name ":\t" code "\n.size " #name \
	", . - " #name "\n"

__asm__(".text\n.p2align 4\n" ONE(side0, "ret") ONE(side1, "ret") ONE(side2, "ret") ONE(side3, "ret")
		ONE(side4, "nop\n\tret") ONE(side5, "ret") ONE(side6, "ret") ONE(side7, "ret"));

#define CALL(n) \
	for (int i = 0; i <= n; i++) \
	__asm__ volatile("call side" #n)

int main(void)
{
	char line[64];

	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("ready");
	while (fgets(line, sizeof(line), stdin)) {
		for (int rounds = atoi(line); rounds > 0; rounds--) {
			CALL(0);
			CALL(1);
			CALL(2);
			CALL(3);
			CALL(4);
			CALL(5);
			CALL(6);
			CALL(7);
		}
		puts("called");
	}
	return 0;
}
