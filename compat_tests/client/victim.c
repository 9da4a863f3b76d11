/* Calls work() as often as it is told, and passes the USDT probe victim:told each time. */
#include <stdio.h>
#include <stdlib.h>

__attribute__((noinline)) int work(int a, int b)
{
	__asm__ volatile("");
	return a * b + 1;
}

/* What <sys/sdt.h> writes: a nop, and a note that says where its arguments are. */
__attribute__((noinline)) static void tell(int number, long twice, const short *small)
{
	__asm__ volatile("990: nop\n"
			 ".pushsection .note.stapsdt, \"?\", \"note\"\n"
			 ".balign 4\n"
			 ".4byte 992f-991f, 994f-993f, 3\n"
			 "991: .asciz \"stapsdt\"\n"
			 "992: .balign 4\n"
			 "993: .8byte 990b\n"
			 ".8byte _.stapsdt.base\n"
			 ".8byte 0\n"
			 ".asciz \"victim\"\n"
			 ".asciz \"told\"\n"
			 ".asciz \"-4@%0 8@%1 -2@%2 -4@$-7\"\n"
			 "994: .balign 4\n"
			 ".popsection\n"
			 ".ifndef _.stapsdt.base\n"
			 ".pushsection .stapsdt.base, \"aG\", \"progbits\", .stapsdt.base, comdat\n"
			 ".weak _.stapsdt.base\n"
			 ".hidden _.stapsdt.base\n"
			 "_.stapsdt.base: .space 1\n"
			 ".size _.stapsdt.base, 1\n"
			 ".popsection\n"
			 ".endif\n" ::"r"(number),
			 "r"(twice), "o"(*small)
			 : "memory");
}

int main(int argc, char **argv)
{
	short small[2] = { 0, -3 };
	int sum = 0;

	for (int i = 0; i < atoi(argv[argc - 1]); i++) {
		sum += work(i, i + 1);
		tell(-i, 2L * i, &small[1]);
	}
	printf("%d\n", sum);
	return 0;
}
