/*
 * Functions whose returns are compared with the kernel's uretprobes: recursion deeper than 64 calls,
 * tail calls, longjmp, handlers, fork. Each returns a number that tells which call it was.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#define PROBED __attribute__((noinline, noclone)) long

static volatile long sink;
static jmp_buf back;

PROBED deep(long n)
{
	if (n)
		sink = deep(n - 1);
	return n;
}

/* Two functions in turn: both take a place each. */
PROBED ping(long n);
PROBED pong(long n)
{
	if (n)
		sink = ping(n - 1);
	return n;
}
PROBED ping(long n)
{
	if (n)
		sink = pong(n - 1);
	return n;
}

PROBED third(long n)
{
	return n * 3;
}
PROBED second(long n)
{
	return third(n + 1);
}
PROBED first(long n)
{
	return second(n + 1);
}

PROBED jumper(long n)
{
	if (n % 4 == 3)
		longjmp(back, 1);
	sink = n ? jumper(n - 1) : 0;
	return n;
}

PROBED handled(long n)
{
	return n;
}

static void on_signal(int sig)
{
	sink = handled(sig);
}

PROBED raising(long n)
{
	raise(SIGUSR1);
	return n;
}

PROBED forking(long n)
{
	pid_t pid = fork();

	if (pid)
		waitpid(pid, NULL, 0);
	return pid ? n : n + 100;
}

int main(void)
{
	for (long i = 0; i < 3; i++) {
		sink = deep(10);
		sink = deep(100);
		sink = ping(70);
		sink = first(i);
	}
	for (volatile long i = 0; i < 100; i = i + 1)
		if (!setjmp(back))
			sink = jumper(i);
	sink = deep(70); /* what longjmp left behind takes no place */
	signal(SIGUSR1, on_signal);
	sink = raising(5);
	if (forking(1) > 100)
		exit(0);
	return 0;
}
