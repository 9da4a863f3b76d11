/*
 * inside: a process that says who it is, to itself, as it calls met(). For each byte of stdin, once
 * what it asks for has been done, the line "done": 'm' the first thread; 't' a new thread, which
 * stays; 'f' a child, which says it twice and stays; 'v' a child of vfork; 's' many threads
 * at once, which end; 'n' a child in a namespace of process numbers below this one; 'k' signals to
 * itself, and to a child, which ends by it.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { STORM = 32, ROUNDS = 5 };

__attribute__((noinline, used)) void met(long kind, long pid, long tid)
{
	__asm__ volatile("" : : "r"(kind), "r"(pid), "r"(tid));
}

static void say(long kind)
{
	met(kind, getpid(), syscall(SYS_gettid));
}

static int pipes[2];

static void *stays(void *kind)
{
	say((long)kind);
	if (write(pipes[1], "x", 1) != 1)
		abort();
	for (;;)
		pause();
}

static void start(long kind)
{
	pthread_t thread;
	char byte;

	if (pthread_create(&thread, NULL, stays, (void *)kind) || read(pipes[0], &byte, 1) != 1)
		abort();
}

static void child(long kind)
{
	char byte;
	pid_t pid = fork();

	if (pid < 0)
		abort();
	if (pid) {
		if (read(pipes[0], &byte, 1) != 1)
			abort();
		return;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	say(kind);
	stays((void *)(kind + 1));
}

static void below(void)
{
	if (unshare(CLONE_NEWPID))
		abort();
	child('n');
}

static void *storms(void *unused)
{
	int i;

	for (i = 0; i < ROUNDS; i++)
		say('s');
	return unused;
}

static void storm(void)
{
	pthread_t threads[STORM];
	int i;

	for (i = 0; i < STORM; i++)
		if (pthread_create(&threads[i], NULL, storms, NULL))
			abort();
	for (i = 0; i < STORM; i++)
		pthread_join(threads[i], NULL);
}

static void vforks(void)
{
	pid_t pid = vfork();

	if (!pid) {
		say('v');
		_exit(0);
	}
	waitpid(pid, NULL, 0);
}

/* Signals to itself, a thread of its own, its last child; one that ends a child. */
static void kills(void)
{
	pid_t pid = fork();
	int status;
	char byte;

	if (!pid) {
		if (write(pipes[1], "x", 1) != 1)
			abort();
		for (;;)
			pause();
	}
	if (pid < 0 || read(pipes[0], &byte, 1) != 1)
		abort();
	kill(getpid(), 0);
	kill(getpid(), SIGURG);
	raise(SIGWINCH);
	kill(pid, SIGTERM);
	if (waitpid(pid, &status, 0) != pid)
		abort();
}

int main(void)
{
	int c;

	setvbuf(stdin, NULL, _IONBF, 0);
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (pipe(pipes))
		return 1;
	puts("ready");
	while ((c = getchar()) != EOF) {
		switch (c) {
		case 'm': say('m'); break;
		case 't': start('t'); break;
		case 'f': child('f'); break;
		case 'v': vforks(); break;
		case 'k': kills(); break;
		case 's': storm(); break;
		case 'n': below(); break;
		}
		puts("done");
	}
	return 0;
}
