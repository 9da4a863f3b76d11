/*
 * An application that is attached to: calls `one` when it is told to, and says whether its memory is
 * as it was. On stdin: "run N" ("ran N"), "threads T N" ("ran": T threads, N times each), "fork N" (a
 * child), "check" ("fine", or what is not), "where" (addresses of its three guarded pieces of memory
 * and of its stack, of its two things and of what `poke` is, in hex), "two X" (what two() returns),
 * "things" (status of each, times that they were poked, what the last one was, how often
 * one is given). At the end of
 * input it ends.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SIZE = 1 << 16 };

struct thing {
	long id;
	struct thing *next;
	int status;
	int secret;
	char name[16];
};

static struct thing things[2] = { { 10, &things[1], 0, 77, "first" },
				  { 20, &things[0], 0, 77, "second" } };
static const char *misused = "";
static long pokes;
static int last;

static unsigned char still[SIZE];
static unsigned char *pieces[3];

__attribute__((noipa)) long one(long x, void *p)
{
	return x + (p != 0);
}

__attribute__((noipa)) long two(struct thing *t, long x)
{
	return x + t->id;
}

/* What programs may call, of a thing and 1, 2 or 3; name: of so many bytes. */
__attribute__((noipa)) int poke(struct thing *t, int how)
{
	if ((t != &things[0] && t != &things[1]) || how < 1 || how > 3)
		misused = "poked with what is none";
	else
		last = how + (t == &things[1] ? 100 : 0);
	pokes++;
	return how;
}

__attribute__((noipa)) long sum(const unsigned char *bytes, long size)
{
	long found = 0;

	if (size < 0 || size > 64)
		misused = "summed too many";
	for (long i = 0; i < size && i < 64; i++)
		found += bytes[i];
	return found;
}

static int given;

__attribute__((noipa)) struct thing *give(struct thing *t)
{
	if (t != &things[0] && t != &things[1])
		misused = "given for what is none";
	given++;
	return &things[1];
}

__attribute__((noipa)) void back(struct thing *t)
{
	if (t != &things[1] || !given)
		misused = "given back what was not given";
	given--;
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
	for (int n = 0; n < 2; n++)
		if (things[n].id != 10 * (n + 1) || things[n].next != &things[!n] ||
		    things[n].secret != 77 || things[n].name[15])
			return "a thing changed";
	return *misused ? misused : "fine";
}

/* A program may make functions return -1 to 3, or 403. */
static void expect(long found, long wanted)
{
	if (found != wanted && (found < -1 || found > 3) && found != 403)
		abort();
}

static void *rounds_of(void *n)
{
	for (long i = 0; i < (long)n; i++) {
		expect(one(i, pieces[i % 3]), i + 1);
		expect(two(&things[i % 2], i), i + things[i % 2].id);
	}
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
		} else if (sscanf(line, "two %ld", &rounds) == 1) {
			printf("%ld\n", two(&things[0], rounds));
		} else if (!strncmp(line, "things", 6)) {
			printf("%d %d %ld %d %d\n", things[0].status, things[1].status, pokes, last,
			       given);
			things[0].status = things[1].status = last = given = 0;
			pokes = 0;
		} else {
			printf("%p %p %p %p %p %p %p\n", (void *)pieces[0], (void *)pieces[1],
			       (void *)pieces[2], (void *)line, (void *)&things[0], (void *)&things[1],
			       (void *)poke);
		}
		fflush(stdout);
	}
	return strcmp(check(), "fine") != 0;
}
