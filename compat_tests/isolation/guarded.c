/*
 * An application that is attached to: calls `one` when it is told to, and says whether its memory is
 * as it was. On stdin: "run N" ("ran N"), "threads T N" ("ran": T threads, N times each), "fork N" (a
 * child), "check" ("fine", or what is not), "where" (addresses of its three guarded pieces of memory
 * and of its stack, in hex). At the end of input it ends.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SIZE = 1 << 16 };

static unsigned char still[SIZE];
static unsigned char *pieces[3];

__attribute__((noipa)) long one(long x, void *p)
{
	return x + (p != 0);
}

static void fill(void)
{
	pieces[0] = still;
	pieces[1] = malloc(SIZE);
	pieces[2] = mmap(0, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (int n = 0; n < 3; n++)
		for (int i = 0; i < SIZE; i++)
			pieces[n][i] = (unsigned char)(i * 7 + n);
}

static const char *check(void)
{
	for (int n = 0; n < 3; n++)
		for (int i = 0; i < SIZE; i++)
			if (pieces[n][i] != (unsigned char)(i * 7 + n))
				return "changed";
	return "fine";
}

static void *rounds_of(void *n)
{
	for (long i = 0; i < (long)n; i++)
		if (one(i, pieces[i % 3]) != i + 1)
			abort();
	return 0;
}

static void threads(int number, long rounds)
{
	pthread_t found[16];

	for (int i = 0; i < number; i++)
		pthread_create(&found[i], 0, rounds_of, (void *)rounds);
	for (int i = 0; i < number; i++)
		pthread_join(found[i], 0);
}

static void child(long rounds)
{
	pid_t pid = fork();

	if (!pid) {
		rounds_of((void *)rounds);
		_exit(0);
	}
	waitpid(pid, 0, 0);
}

int main(void)
{
	char line[64];
	long rounds;
	int number;

	fill();
	printf("ready\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		if (sscanf(line, "run %ld", &rounds) == 1) {
			rounds_of((void *)rounds);
			printf("ran %ld\n", rounds);
		} else if (sscanf(line, "threads %d %ld", &number, &rounds) == 2 && number <= 16) {
			threads(number, rounds);
			printf("ran\n");
		} else if (sscanf(line, "fork %ld", &rounds) == 1) {
			child(rounds);
			printf("ran\n");
		} else if (!strncmp(line, "check", 5)) {
			printf("%s\n", check());
		} else {
			printf("%p %p %p %p\n", (void *)pieces[0], (void *)pieces[1], (void *)pieces[2],
			       (void *)line);
		}
		fflush(stdout);
	}
	return strcmp(check(), "fine") != 0;
}
