/*
 * Each way by which a thread's mask of signals comes to block SIGSEGV: batch() looks at what is there and what is
 * not before, meanwhile and afterwards (quick.c). Whoever takes a mask for what it was before dies of it.
 */
#define _GNU_SOURCE
#include "masks.h"
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

enum { LOOKS = 2 /* batches that tell the mask well enough */, SIGMASK_BYTES = 8 };

static sigset_t all, none, but_one; /* SIGUSR1 may come */
static __thread void (*in_handler)(ucontext_t *);

static void open_mask(void)
{
	pthread_sigmask(SIG_SETMASK, &none, NULL);
	batch(LOOKS);
}

static void looks(ucontext_t *uc)
{
	(void)uc;
	batch(LOOKS);
}

static void closes(ucontext_t *uc)
{
	batch(LOOKS);
	memcpy(&uc->uc_sigmask, &all, SIGMASK_BYTES);
}

static void opens(ucontext_t *uc)
{
	(void)uc;
	open_mask();
}

static void on_signal(int signo, siginfo_t *info, void *uc)
{
	(void)signo;
	(void)info;
	if (in_handler)
		in_handler(uc);
}

/* The next call that lets it meets the signal. */
static void pending(void (*what)(ucontext_t *))
{
	sigset_t one;

	sigemptyset(&one);
	sigaddset(&one, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &one, NULL);
	in_handler = what;
	pthread_kill(pthread_self(), SIGUSR1);
	batch(LOOKS);
}

/* Calls that wait with another mask; what is looked at from a handler there. */
static void waits(void)
{
	struct timespec long_ = { 5, 0 };
	struct epoll_event event;
	int fd = epoll_create1(EPOLL_CLOEXEC);

	for (int i = 0; i < 12; i++) {
		open_mask();
		pending(i & 1 ? opens : looks);
		switch (i / 2) {
		case 0: sigsuspend(&but_one); break;
		case 1: ppoll(NULL, 0, &long_, &but_one); break;
		case 2: pselect(0, NULL, NULL, NULL, &long_, &but_one); break;
		case 3: epoll_pwait(fd, &event, 1, 5000, &but_one); break;
		case 4: epoll_pwait2(fd, &event, 1, &long_, &but_one); break;
		case 5: syscall(SYS_rt_sigsuspend, &but_one, SIGMASK_BYTES); break;
		}
		batch(LOOKS);
	}
	close(fd);
}

static void returns(void)
{
	/* a handler that has the thread go on with another mask */
	open_mask();
	in_handler = closes;
	pthread_kill(pthread_self(), SIGUSR1);
	batch(LOOKS);
	/* one that knows of another mask than who goes on */
	open_mask();
	pthread_sigmask(SIG_SETMASK, &but_one, NULL);
	in_handler = opens;
	pthread_kill(pthread_self(), SIGUSR1);
	batch(LOOKS);
	open_mask();
}

static void jumps(void)
{
	sigjmp_buf env;
	volatile int again = 0;

	pthread_sigmask(SIG_SETMASK, &all, NULL);
	if (!sigsetjmp(env, 1))
		again = 1;
	batch(LOOKS);
	if (again) {
		again = 0;
		open_mask();
		siglongjmp(env, 1);
	}
	open_mask();
}

static __thread ucontext_t here, there;

static void elsewhere(void)
{
	batch(LOOKS);
	swapcontext(&there, &here);
}

static void contexts(void)
{
	size_t size = 256 << 10;
	char *stack = malloc(size);

	getcontext(&there);
	there.uc_stack.ss_sp = stack;
	there.uc_stack.ss_size = size;
	there.uc_link = NULL;
	there.uc_sigmask = all;
	makecontext(&there, elsewhere, 0);
	open_mask();
	swapcontext(&here, &there);
	batch(LOOKS);
	/* one that goes on here, with all blocked */
	volatile int again = 1;

	getcontext(&here);
	batch(LOOKS);
	if (again) {
		again = 0;
		here.uc_sigmask = all;
		setcontext(&here);
	}
	open_mask();
	free(stack);
}

static void *inherits(void *unused)
{
	batch(LOOKS);
	open_mask();
	return unused;
}

static void children(void)
{
	pthread_t t;
	pid_t child;

	open_mask();
	child = vfork();
	if (!child) {
		sigprocmask(SIG_SETMASK, &all, NULL);
		batch(1);
		sigprocmask(SIG_SETMASK, &none, NULL);
		batch(LOOKS);
		_exit(0);
	}
	waitpid(child, NULL, 0);
	batch(LOOKS);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	child = vfork();
	if (!child) {
		sigprocmask(SIG_SETMASK, &none, NULL);
		batch(LOOKS);
		_exit(0);
	}
	waitpid(child, NULL, 0);
	batch(LOOKS);
	pthread_create(&t, NULL, inherits, NULL);
	pthread_join(t, NULL);
	batch(1);
	open_mask();
	if (system("true"))
		_exit(4);
	batch(LOOKS);
}

void *masks(void *unused)
{
	struct sigaction act = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO };

	sigfillset(&all);
	sigemptyset(&none);
	sigfillset(&but_one);
	sigdelset(&but_one, SIGUSR1);
	sigaction(SIGUSR1, &act, NULL);
	for (int i = 0; i < 3; i++) {
		open_mask();
		sigprocmask(SIG_BLOCK, &all, NULL);
		batch(LOOKS);
		open_mask();
		syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, NULL, SIGMASK_BYTES);
		batch(LOOKS);
		waits();
		returns();
		jumps();
		contexts();
		children();
	}
	return unused;
}
