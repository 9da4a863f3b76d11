/* Functions that jump to others at their end. Each line on stdin: five calls of each of three. */
#include <stdio.h>

#define ITSELF __attribute__((noipa))

ITSELF int plus(int n)
{
	return n + 1;
}

static int (*volatile through)(int) = plus;

/* Jumps to what is known, plus. */
ITSELF int onward(int n)
{
	return plus(n * 2);
}

/* Jumps to what is not, which is plus. */
ITSELF int anywhere(int n)
{
	return through(n);
}

int main(void)
{
	char line[16];

	printf("ready\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		int sum = 0;

		for (int i = 0; i < 5; i++)
			sum += plus(i) + onward(i) + anywhere(i);
		printf("%d\n", sum);
		fflush(stdout);
	}
	return 0;
}
