/* Calls work() as often as it is told. */
#include <stdio.h>
#include <stdlib.h>

__attribute__((noinline)) int work(int a, int b)
{
	__asm__ volatile("");
	return a * b + 1;
}

int main(int argc, char **argv)
{
	int sum = 0;

	for (int i = 0; i < atoi(argv[argc - 1]); i++)
		sum += work(i, i + 1);
	printf("%d\n", sum);
	return 0;
}
