/*
 * A process that does what it is told, a line at a time, and answers a line: calls functions, passes
 * USDT probes with and without semaphores, forks, executes itself, loads and unloads a library.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "usdt.h"

SEMAPHORE(one);
SEMAPHORE(two);

__attribute__((noipa)) long k_one(long a)
{
	__asm__ volatile("" : "+r"(a));
	return a * 2 + 1;
}

__attribute__((noipa)) long k_two(long a, long b)
{
	__asm__ volatile("" : "+r"(a));
	return a * b;
}

__attribute__((noipa)) long k_rec(long a)
{
	long below;

	if (a <= 0)
		return 0;
	below = k_rec(a - 1);
	__asm__ volatile("" : "+r"(below));
	return below + a;
}

__attribute__((noipa)) void u_one(long a, const char *text, short small)
{
	PROBE3(one, "u_one_at", a, text, small);
}

__attribute__((noipa)) void u_two(long a)
{
	PROBE1(two, "u_two_at", a);
	__asm__ volatile("");
	PROBE1(two, "u_three_at", a + 1);
}

__attribute__((noipa)) void u_none(long a)
{
	PROBE1_PLAIN("u_none_at", a);
}

extern char u_one_at[], u_two_at[], u_three_at[], u_none_at[];

/* As the file is mapped: where in it that address lies. */
static unsigned long file_offset(const void *at)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	unsigned long lo, hi, off, found = 0;
	char line[512];

	while (fgets(line, sizeof(line), maps))
		if (sscanf(line, "%lx-%lx %*s %lx", &lo, &hi, &off) == 3 && (unsigned long)at >= lo &&
		    (unsigned long)at < hi)
			found = (unsigned long)at - lo + off;
	fclose(maps);
	return found;
}

static void places(void)
{
	printf("one=%lu two=%lu rec=%lu u_one=%lu u_two=%lu u_three=%lu u_none=%lu sem_one=%lu "
	       "sem_two=%lu\n",
	       file_offset(k_one), file_offset(k_two), file_offset(k_rec), file_offset(u_one_at),
	       file_offset(u_two_at), file_offset(u_three_at), file_offset(u_none_at),
	       file_offset(&kinds_one_semaphore), file_offset(&kinds_two_semaphore));
}

static sem_t ask, answered;
static long times;

static void *worker(void *arg)
{
	for (;;) {
		while (sem_wait(&ask))
			;
		for (long i = 0; i < times; i++)
			k_one(i);
		sem_post(&answered);
	}
	return arg;
}

static void in_thread(long n)
{
	static pthread_t thread;

	if (!thread) {
		sem_init(&ask, 0, 0);
		sem_init(&answered, 0, 0);
		pthread_create(&thread, NULL, worker, NULL);
	}
	times = n;
	sem_post(&ask);
	while (sem_wait(&answered))
		;
	printf("ok\n");
}

/* The child takes the commands until it is told to exit. */
static void make_child(void)
{
	pid_t child = fork();

	if (!child) {
		printf("child %d\n", getpid());
		return;
	}
	waitpid(child, NULL, 0);
	printf("back\n");
}

static void vforked(long n)
{
	pid_t child = vfork();

	if (!child) {
		for (volatile long i = 0; i < n; i++)
			k_one(i);
		_exit(0);
	}
	waitpid(child, NULL, 0);
	printf("ok\n");
}

static void *plug;

static void load(const char *path)
{
	plug = dlopen(path, RTLD_NOW);
	printf(plug ? "ok\n" : "no\n");
}

static void plugged(long n)
{
	void (*fire)(long) = (void (*)(long))dlsym(plug, "p_fire");

	for (long i = 0; i < n; i++)
		fire(i);
	printf("ok\n");
}

static void semaphores(void)
{
	volatile unsigned short *third = plug ? dlsym(plug, "kinds_plug_semaphore") : NULL;

	printf("%d %d %d\n", *(volatile unsigned short *)&kinds_one_semaphore,
	       *(volatile unsigned short *)&kinds_two_semaphore, third ? *third : -1);
}

static long numbered(char **argv, const char *command, long n, const char *word)
{
	if (!strcmp(command, "hit"))
		for (long i = 0; i < n; i++)
			k_one(i);
	else if (!strcmp(command, "two"))
		for (long i = 0; i < n; i++)
			k_two(i, i + 1);
	else if (!strcmp(command, "rec"))
		return printf("%ld\n", k_rec(n));
	else if (!strcmp(command, "usdt"))
		for (long i = 0; i < n; i++)
			u_one(i, "text", -3), u_two(i), u_none(i);
	else if (!strcmp(command, "exec"))
		return execv("/proc/self/exe", argv);
	else if (!strcmp(command, "open"))
		return load(word), 1;
	else if (!strcmp(command, "close"))
		return printf(dlclose(plug) ? "no\n" : "ok\n"), plug = NULL, 1;
	else
		return printf("what?\n");
	return printf("ok\n");
}

int main(int argc, char **argv)
{
	char line[512], command[32], word[448];
	(void)argc;

	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("pid %d\n", getpid());
	while (fgets(line, sizeof(line), stdin)) {
		word[0] = 0;
		sscanf(line, "%31s %447s", command, word);
		if (!strcmp(command, "exit"))
			break;
		else if (!strcmp(command, "places"))
			places();
		else if (!strcmp(command, "thread"))
			in_thread(atol(word));
		else if (!strcmp(command, "fork"))
			make_child();
		else if (!strcmp(command, "vfork"))
			vforked(atol(word));
		else if (!strcmp(command, "plug"))
			plugged(atol(word));
		else if (!strcmp(command, "sem"))
			semaphores();
		else
			numbered(argv, command, atol(word), word);
	}
	fflush(stdout);
	_exit(0);
}
