/* deeds: is signalled and written to by deeds.bpf.c, and says what came of it. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define EXPORT __attribute__((noinline, noclone, noipa, visibility("default")))

static volatile long sink;
static volatile int number, code, in_thread;
static __thread volatile int own;
static const long constant = 7;

EXPORT long signalled(long what, long thread)
{
	sink += what + thread;
	return sink;
}

EXPORT long misused(long what)
{
	sink += what;
	return sink;
}

EXPORT long written(volatile long *place, const volatile long *fixed)
{
	return *place + *fixed;
}

static void handler(int n, siginfo_t *info, void *context)
{
	(void)context;
	number = n;
	code = info->si_code;
	in_thread = own;
}

static void *other(void *unused)
{
	own = 1;
	signalled(SIGUSR2, 1);
	printf("thread: signal %d code %d there %d\n", number, code, in_thread);
	return unused;
}

int main(void)
{
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO };
	volatile long place = 5;
	pthread_t thread;

	sigaction(SIGUSR1, &action, NULL);
	sigaction(SIGUSR2, &action, NULL);
	signalled(SIGUSR1, 0);
	printf("process: signal %d code %d\n", number, code);
	pthread_create(&thread, NULL, other, NULL);
	pthread_join(thread, NULL);
	signalled(0, 0);
	misused(65);
	misused(-1);
	written(&place, &constant);
	printf("memory: %lx %lx\n", place, *(const volatile long *)&constant);
	fflush(stdout);
	signalled(SIGKILL, 0);
	printf("alive\n");
	return 0;
}
