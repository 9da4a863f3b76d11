/*
 * quick: "ready"; then a line for each byte on stdin: "0 N", N looks by the threads that there are, of
 * memory that is there and such that is not (seen() as in stacks.c). What it does with signals besides is
 * the byte: see main(). A look of the program's at an action that is not what it has set ends it with 3.
 */
#define _GNU_SOURCE
#include "masks.h"
#include <dlfcn.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, FAULTS = 1, TEXT = 2, FILL = 0x41, BATCH = 20, THREADS = 3 };

static unsigned int looks;
static char *there, *nowhere, *edge; /* edge: what is there ends at it */
extern char **environ;

__attribute__((noinline, noipa)) void seen(const void *at, uint64_t word, int what)
{
	__asm__ volatile("" : : "r"(at), "r"(word), "r"(what) : "memory");
	__atomic_fetch_add(&looks, 1, __ATOMIC_RELAXED);
}

static void word(const void *at)
{
	uint64_t value;

	memcpy(&value, at, 8);
	seen(at, value, 0);
}

/* 8 looks */
static void look(void)
{
	word(there);
	word(there + 13);
	word(edge - 8);
	seen(edge - 64, 0, TEXT);
	seen(there + PAGE, 1, TEXT);
	seen(nowhere, 0, FAULTS);
	seen(edge - 4, 0, FAULTS);
	seen((void *)0x123456789000, 0, FAULTS);
}

void batch(int n)
{
	while (n--)
		look();
}

static void memory(void)
{
	there = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	edge = there + 2 * PAGE;
	mprotect(edge, PAGE, PROT_NONE);
	nowhere = there + 3 * PAGE + 8;
	mprotect(there + 3 * PAGE, PAGE, PROT_NONE);
	for (int i = 0; i < 2 * PAGE; i++)
		there[i] = (char)(i * 7 + 1);
	memset(edge - 64, FILL, 63);
	edge[-1] = 0;
	memset(there + PAGE, FILL, 62);
	there[PAGE + 62] = 0;
}

#define expect(holds) expected(holds, __LINE__)

static void expected(int holds, int line)
{
	if (!holds) {
		fprintf(stderr, "quick.c:%d\n", line);
		_exit(3);
	}
}

static void *worker(void *unused)
{
	batch(BATCH);
	return unused;
}

static void threads(void *(*run)(void *))
{
	pthread_t t[THREADS];

	for (int i = 0; i < THREADS; i++)
		pthread_create(&t[i], NULL, run, NULL);
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
}

static void *blocked(void *unused)
{
	sigset_t all;

	sigfillset(&all);
	batch(2);
	pthread_sigmask(SIG_BLOCK, &all, NULL);
	batch(BATCH);
	pthread_sigmask(SIG_UNBLOCK, &all, NULL);
	batch(2);
	return unused;
}

static void in_handler(int signo)
{
	(void)signo;
	batch(2);
}

/* Handlers, with everything blocked and on a stack of their own; at once inside of looks. */
static void *handlers(void *unused)
{
	struct sigaction act = { .sa_handler = in_handler, .sa_flags = SA_ONSTACK | SA_NODEFER };
	stack_t stack = { .ss_sp = malloc(128 << 10), .ss_size = 128 << 10 },
		none = { .ss_flags = SS_DISABLE };

	for (int how = 0; how < 4; how++) {
		if (how & 1)
			sigfillset(&act.sa_mask);
		else
			sigemptyset(&act.sa_mask);
		sigaction(SIGUSR1, &act, NULL);
		if (how == 2)
			sigaltstack(&stack, NULL);
		pthread_kill(pthread_self(), SIGUSR1);
		batch(1);
	}
	sigaltstack(&none, NULL);
	free(stack.ss_sp);
	return unused;
}

/* Deeper, until little of the stack is left. */
__attribute__((noinline)) static void deeper(char *low)
{
	volatile char room[1024];

	room[0] = 1;
	if ((char *)&room - low > 12288)
		deeper(low);
	else
		look();
	room[1] = room[0];
}

static void *deep(void *low)
{
	deeper(low);
	return NULL;
}

static void depth(void)
{
	size_t size = 256 << 10;
	char *low = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pthread_attr_t attr;
	pthread_t t;

	mprotect(low, PAGE, PROT_NONE);
	pthread_attr_init(&attr);
	pthread_attr_setstack(&attr, low + PAGE, size - PAGE);
	pthread_create(&t, &attr, deep, low + PAGE);
	pthread_join(t, NULL);
	munmap(low, size);
}

static void *many(void *unused)
{
	batch(10 * BATCH);
	return unused;
}

/* While others read what is not there. */
static void of_a_sudden(void)
{
	struct sigaction act = { .sa_handler = SIG_IGN }, old;
	pthread_t t[THREADS];

	for (int i = 0; i < THREADS; i++)
		pthread_create(&t[i], NULL, many, NULL);
	usleep((unsigned int)getpid() * 7919u % 2000u);
	expect(!sigaction(SIGSEGV, &act, &old) && old.sa_handler == SIG_DFL);
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
}

static void children(void)
{
	char *argv[] = { "true", NULL };
	posix_spawnattr_t attr;
	sigset_t all;
	int status;
	pid_t child = fork();

	if (!child) {
		struct sigaction none = { .sa_handler = SIG_DFL }, old;

		batch(3);
		sigaction(SIGSEGV, &none, &old);
		expect(old.sa_handler == SIG_DFL);
		batch(3);
		_exit(0);
	}
	waitpid(child, &status, 0);
	expect(status == 0);
	looks += 6 * 8;
	child = vfork();
	if (!child) {
		struct sigaction ignore = { .sa_handler = SIG_IGN };

		sigaction(SIGSEGV, &ignore, NULL);
		sigaction(SIGBUS, &ignore, NULL);
		look();
		_exit(0);
	}
	waitpid(child, &status, 0);
	expect(status == 0);
	sigfillset(&all);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setsigdefault(&attr, &all);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGDEF);
	expect(!posix_spawn(&child, "/bin/true", NULL, &attr, argv, environ));
	waitpid(child, &status, 0);
	expect(status == 0);
	batch(2);
}

static sigjmp_buf back;
static int repaired, jumped, sent;

static void own(int signo, siginfo_t *info, void *context)
{
	(void)context;
	if (info->si_code <= 0) {
		sent++;
	} else if ((char *)info->si_addr - nowhere < PAGE && info->si_addr >= (void *)nowhere) {
		repaired += signo == SIGSEGV;
		mprotect(there + 3 * PAGE, PAGE, PROT_READ | PROT_WRITE);
	} else {
		jumped++;
		siglongjmp(back, 1);
	}
}

/* What the process does about SIGSEGV is its own, before, meanwhile and afterwards. */
static void of_its_own(void)
{
	struct sigaction act = { .sa_sigaction = own, .sa_flags = SA_SIGINFO }, old;

	expect(!syscall(SYS_rt_sigaction, SIGBUS, NULL, &old, 8) && old.sa_handler == SIG_DFL);
	expect(!sigaction(SIGSEGV, &act, &old) && old.sa_handler == SIG_DFL && !old.sa_flags);
	batch(3);
	*(volatile char *)nowhere = 1;
	expect(repaired == 1);
	mprotect(there + 3 * PAGE, PAGE, PROT_NONE);
	if (!sigsetjmp(back, 1))
		*(volatile char *)0x1230 = 1;
	expect(jumped == 1);
	kill(getpid(), SIGSEGV);
	expect(sent == 1);
	batch(3);
	act.sa_handler = SIG_IGN;
	act.sa_flags = 0;
	expect(!sigaction(SIGSEGV, &act, &old) && old.sa_sigaction == own);
	kill(getpid(), SIGSEGV);
	batch(3);
	threads(worker);
	act.sa_handler = SIG_DFL;
	sigaction(SIGSEGV, &act, NULL);
}

/* To itself, saying of it what only the kernel says to others. */
static void pretend(int signo, int code)
{
	siginfo_t info = { .si_signo = signo, .si_code = code, .si_addr = there };

	syscall(SYS_rt_tgsigqueueinfo, getpid(), gettid(), signo, &info);
}

int main(int argc, char **argv)
{
	int what;

	memory();
	printf("ready\n");
	fflush(stdout);
	while ((what = getchar()) != EOF) {
		unsigned int before = looks;

		batch(BATCH);
		switch (what) {
		case 't': threads(worker); break;
		case 'b': threads(blocked); break;
		case 'h': threads(handlers), handlers(NULL); break;
		case 'm': threads(masks), masks(NULL); break;
		case 'd': depth(); break;
		case 'r': of_a_sudden(); break;
		case 'c': children(); break;
		case 'o': of_its_own(); break;
		case 'l': expect(argc > 1 && dlopen(argv[1], RTLD_NOW)); break;
		case 'f': *(volatile char *)nowhere = 1; break;
		case 'k': kill(getpid(), SIGBUS); break;
		case 'a': pretend(SIGBUS, BUS_MCEERR_AO); break;
		case 'p': pretend(SIGSEGV, SEGV_MAPERR); break;
		}
		printf("0 %u\n", looks - before);
		fflush(stdout);
	}
	return 0;
}
