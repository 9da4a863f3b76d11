/*
 * A function in which nothing but int3 fits: each of its first instructions is one byte, something
 * jumps to the next, and no jump that begins there leads to memory. Linked at a fixed address.
 *
 * Prints "ready", then answers each line with "COMMAND CALLS ok", or what was wrong; CALLS: how often
 * the function has been called so far, by everybody.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
unsigned long tiny(unsigned char *buf, unsigned long x);
long raw_mask(int how, const unsigned long *set, unsigned long *old, unsigned long size);

__asm__(".text\n"
	".globl tiny\n"
	".type tiny, @function\n"
	"tiny:	push %rbx\n"
	"1:	pop %rbx\n"
	"2:	stc\n"
	"3:	cmc\n"
	"4:	stc\n"
	"5:	xchg %eax, %esi\n"
	"6:	stosb\n"
	"7:	nop\n"
	"8:	nop\n	nop\n	nop\n	nop\n"
	"	adc $0, %rax\n"
	"	mov %rax, -8(%rsp)\n"
	"	mov -8(%rsp), %rax\n"
	"	ret\n"
	".size tiny, . - tiny\n"
	".globl dead\n"
	".type dead, @function\n"
	"dead:	jmp 1b\n	jmp 2b\n	jmp 3b\n	jmp 4b\n	jmp 5b\n"
	"	jmp 6b\n	jmp 7b\n	jmp 8b\n"
	".size dead, . - dead\n"
	/* rt_sigprocmask */
	".globl raw_mask\n"
	".type raw_mask, @function\n"
	"raw_mask:\n"
	"	mov %rcx, %r10\n"
	"	mov $14, %eax\n"
	"	syscall\n"
	"	neg %rax\n"
	"	lea 1(%rax), %rax\n"
	"	ret\n"
	".size raw_mask, . - raw_mask\n");

static long *calls;
static volatile sig_atomic_t traps, handled, stopping, blocking;
static char wrong[200];

static void is(int right, const char *what)
{
	if (!right)
		snprintf(wrong, sizeof(wrong), "wrong: %s", what);
}

static void once(unsigned long x)
{
	unsigned char buf[2] = { 0, 0x55 };

	__atomic_fetch_add(calls, 1, __ATOMIC_RELAXED);
	is(tiny(buf, x) == x + 1 && buf[0] == (x & 0xff) && buf[1] == 0x55, "an answer");
}

static void on_usr1(int sig)
{
	int saved = errno;

	(void)sig;
	once((unsigned long)++handled & 0xffff);
	errno = saved;
}

static void handle(int sig, void (*handler)(int))
{
	struct sigaction act = { .sa_handler = handler, .sa_flags = SA_RESTART };

	sigfillset(&act.sa_mask);
	sigaction(sig, &act, NULL);
	sigaction(sig, NULL, &act);
	is(sigismember(&act.sa_mask, SIGTRAP) == 1, "sa_mask");
}

static void *work(void *arg)
{
	long id = (long)arg;
	sigset_t all, now;

	sigfillset(&all);
	if (id == 1)
		pthread_sigmask(SIG_BLOCK, &all, NULL);
	for (unsigned long i = 0; i < 400 || (id > 3 && !stopping); i++)
		once(i << 3 & 0xffffff);
	pthread_sigmask(SIG_SETMASK, NULL, &now);
	is(sigismember(&now, SIGTRAP) == (id == 1 || blocking), "the mask of a thread");
	return NULL;
}

static pthread_t threads[4];

static void start(long first)
{
	stopping = 0;
	for (long i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, work, (void *)(first + i));
}

static void join(void)
{
	stopping = 1;
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
}

static void masks(void)
{
	sigset_t all, old, now;

	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &old);
	is(!sigismember(&old, SIGTRAP), "the mask before");
	once(5);
	sigprocmask(SIG_BLOCK, NULL, &now);
	is(sigismember(&now, SIGTRAP) && sigismember(&now, SIGUSR2), "the mask that was set");
	sigprocmask(SIG_SETMASK, &old, &now);
	is(sigismember(&now, SIGTRAP), "the mask that was left");
	once(6);
	sigprocmask(SIG_BLOCK, NULL, &now);
	is(!sigismember(&now, SIGTRAP), "the mask at the end");
}

/* By a call of the program's own. */
static void raw(void)
{
	unsigned long all = ~0ul, old = 0, now = 0;

	is(raw_mask(SIG_BLOCK, &all, &old, 8) == 1 && !(old >> (SIGTRAP - 1) & 1), "a raw call");
	once(5);
	is(raw_mask(SIG_SETMASK, &old, &now, 8) == 1 && now >> (SIGTRAP - 1) & 1, "its mask");
	once(6);
}

/* In handlers that run while a call waits with all else blocked. */
static void suspended(void)
{
	static const sigset_t constant = { { ~(1UL << (SIGUSR1 - 1)) } };
	struct timespec soon = { 5, 0 };
	sigset_t all, old, most;

	handle(SIGUSR1, on_usr1);
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &old);
	most = all;
	sigdelset(&most, SIGUSR1);
	handled = 0;
	raise(SIGUSR1);
	is(sigsuspend(&most) == -1 && errno == EINTR && handled == 1, "sigsuspend");
	raise(SIGUSR1);
	is(ppoll(NULL, 0, &soon, &most) == -1 && errno == EINTR && handled == 2, "ppoll");
	raise(SIGUSR1);
	is(pselect(0, NULL, NULL, NULL, &soon, &most) == -1 && handled == 3, "pselect");
	is(sigismember(&most, SIGTRAP) == 1, "the mask of a call");
	raise(SIGUSR1);
	is(ppoll(NULL, 0, &soon, &constant) == -1 && errno == EINTR && handled == 4, "a constant mask");
	sigprocmask(SIG_SETMASK, &old, NULL);
}

static void on_trap(int sig)
{
	(void)sig;
	traps++;
}

/* The program's own SIGTRAP. */
static void own(void)
{
	struct sigaction act = { .sa_handler = on_trap }, old;

	traps = 0;
	sigaction(SIGTRAP, &act, &old);
	is(old.sa_handler == SIG_DFL, "the action before");
	raise(SIGTRAP);
	__asm__ volatile("int3");
	once(9);
	sigaction(SIGTRAP, &old, &act);
	is(traps == 2 && act.sa_handler == on_trap, "its own signals");
}

static void reap(pid_t pid, int want)
{
	int status = 0;

	waitpid(pid, &status, 0);
	is(status == want, "a child");
}

static void children(void)
{
	char *argv[] = { (char *)"true", NULL };
	pid_t pid = fork();

	if (!pid) {
		for (unsigned long i = 0; i < 20; i++)
			once(i);
		masks();
		_exit(wrong[0] ? 4 : 3);
	}
	reap(pid, 3 << 8);
	pid = vfork();
	if (!pid) {
		once(1);
		_exit(7);
	}
	reap(pid, 7 << 8);
	pid = fork();
	if (!pid) {
		raise(SIGTRAP); /* nobody handles it */
		_exit(0);
	}
	waitpid(pid, &(int){ 0 }, 0);
	if (!posix_spawn(&pid, "/bin/true", NULL, NULL, argv, environ))
		reap(pid, 0);
}

static void pester(void)
{
	handle(SIGUSR1, on_usr1);
	start(0);
	for (int i = 0; i < 200; i++) {
		pthread_kill(threads[i % 4], SIGUSR1);
		once(3);
	}
	join();
}

int main(int argc, char **argv)
{
	char line[64];

	setvbuf(stdout, NULL, _IOLBF, 0);
	calls = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (argc > 1) { /* all threads but the first block it: refused */
		sigset_t all, old;

		blocking = 1;
		sigfillset(&all);
		pthread_sigmask(SIG_BLOCK, &all, &old);
		start(4);
		pthread_sigmask(SIG_SETMASK, &old, NULL);
		(void)argv;
	}
	puts("ready");
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		if (!strcmp(line, "once"))
			once(7);
		else if (!strcmp(line, "masks"))
			masks();
		else if (!strcmp(line, "raw"))
			raw();
		else if (!strcmp(line, "suspended"))
			suspended();
		else if (!strcmp(line, "own"))
			own();
		else if (!strcmp(line, "children"))
			children();
		else if (!strcmp(line, "pester"))
			pester();
		else if (!strcmp(line, "start"))
			start(4);
		else if (!strcmp(line, "join"))
			join();
		printf("%s %ld %s\n", line, *calls, wrong[0] ? wrong : "ok");
	}
	return 0;
}
