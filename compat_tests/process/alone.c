/*
 * alone [-x FILE]: opens a file, calls mark() five times, prints its effective user and ends with 3. -x: first
 * tries to exec FILE, which must fail.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

__attribute__((noinline)) int mark(int n)
{
	volatile int a[8];

	for (int i = 0; i < 8; i++)
		a[i] = n + i;
	return a[n & 7];
}

int main(int argc, char **argv)
{
	char *empty[] = { NULL };
	int fd, sum = 0;

	if (argc > 2 && !strcmp(argv[1], "-x"))
		execve(argv[2], empty, empty);
	fd = open("/etc/hostname", O_RDONLY);
	for (int i = 0; i < 5; i++)
		sum += mark(i);
	close(fd);
	printf("user %d\n", (int)geteuid());
	return sum == -1 ? 4 : 3;
}
