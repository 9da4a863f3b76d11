/*
 * testedges FILE.bpf.o MODE: what a process may do before, beside and behind test runs that read. Prints what came of
 * it: the same on the kernel.
 */
#define _GNU_SOURCE
#include "testreads.h"
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { ROUNDS = 4, LONGEST = 3000000, HITS = 100 };

struct state {
	volatile unsigned long look_at, tries, found, hits, refused;
};

static const char *mode;
static struct state *state;
static volatile int *go;
static volatile int handled, code, value, jumps, in_run;
static volatile unsigned long from, mask_seen;
static void *volatile where;
static sigjmp_buf back;
static jmp_buf back_as_is;

static int is(const char *name)
{
	return !strcmp(mode, name);
}

static void runs(void)
{
	for (int i = 0; i < ROUNDS; i++)
		run("reads");
}

static unsigned long low_mask(const sigset_t *set)
{
	unsigned long low;

	memcpy(&low, set, 8);
	return low;
}

static unsigned long blocked(void)
{
	sigset_t set;

	sigprocmask(SIG_BLOCK, NULL, &set);
	return low_mask(&set);
}

static void on_signal(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	handled++;
	code = info->si_code;
	mask_seen = low_mask(&((ucontext_t *)context)->uc_sigmask);
	if (code > 0) {
		where = info->si_addr;
		siglongjmp(back, 1);
	}
	value = info->si_value.sival_int;
	from = (unsigned long)info->si_pid;
	if (is("as it is"))
		longjmp(back_as_is, 1);
}

/* Leaves a run that it comes in: then all is blocked but a few. */
static void on_jump(int sig, siginfo_t *info, void *context)
{
	unsigned long mask = low_mask(&((ucontext_t *)context)->uc_sigmask);

	(void)sig, (void)info;
	in_run = mask >> (SIGTERM - 1) & 1 && !(mask >> (SIGSEGV - 1) & 1);
	jumps++;
	siglongjmp(back, 1);
}

static void set(int sig, void (*handler)(int, siginfo_t *, void *), int flags)
{
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags };

	sigaction(sig, &action, NULL);
}

static pid_t child_of(void (*what)(pid_t))
{
	pid_t of = getpid(), child = fork();

	if (child)
		return child;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	what(of);
	_exit(0);
}

static void end(pid_t child)
{
	int status;

	kill(child, SIGKILL);
	waitpid(child, &status, 0);
}

/* Until runs go on that began behind the word. */
static void in_runs(void)
{
	unsigned long before;

	while (!*go)
		;
	before = state->tries;
	while (!is("bus between") && state->tries < before + 3)
		;
}

static void queue(pid_t of)
{
	union sigval with = { .sival_int = 42 };

	in_runs();
	sigqueue(of, is("bus segv") ? SIGSEGV : SIGBUS, with);
	*go = 2;
	pause();
}

static void kill_bus(pid_t of)
{
	in_runs();
	kill(of, SIGBUS);
	*go = 2;
	pause();
}

/* Its own fault comes to its handler, as it is. */
static void own_fault(int sig)
{
	volatile char *at = sig == SIGBUS ? file + PAGE + 16 : (char *)0x1230;

	where = NULL;
	code = 0;
	if (!sigsetjmp(back, 1))
		*at = 1;
	printf(" own %d %s", code, where == at ? "there" : "elsewhere");
}

static void sent(pid_t child)
{
	printf("handled %d code %d value %d from %d mask %lx", handled, code, value,
	       from == (unsigned long)child, mask_seen);
}

/* SIGBUS during runs, or between them, to a handler, blocked, ignored or to the end. */
static void bus(void)
{
	sigset_t only, waits;
	pid_t child;

	sigemptyset(&only);
	sigaddset(&only, SIGBUS);
	if (is("bus ignored"))
		signal(SIGBUS, SIG_IGN);
	else if (!is("bus ends"))
		set(is("bus segv") ? SIGSEGV : SIGBUS, on_signal, 0);
	if (is("bus blocked"))
		sigprocmask(SIG_BLOCK, &only, NULL);
	child = child_of(is("bus ends") || is("bus ignored") ? kill_bus : queue);
	if (is("bus between")) {
		runs();
		*go = 1;
		while (*go != 2 || !handled)
			;
		runs();
	} else {
		*go = 1;
		for (int i = 0; i < ROUNDS || *go != 2; i++)
			run("reads");
	}
	runs();
	if (is("bus blocked")) {
		sigpending(&waits);
		printf("before %d pending %d ", handled, sigismember(&waits, SIGBUS));
		sigprocmask(SIG_UNBLOCK, &only, NULL);
	}
	sent(child);
	if (!is("bus ignored"))
		own_fault(is("bus segv") ? SIGSEGV : SIGBUS);
	end(child);
}

/* longjmp() leaves the mask as the handler has it. */
static void as_it_is(void)
{
	pid_t child;

	set(SIGBUS, on_signal, SA_NODEFER);
	child = child_of(queue);
	*go = 1;
	if (!setjmp(back_as_is))
		for (;;)
			run("reads");
	runs();
	sent(child);
	printf(" blocked %lx", blocked());
	end(child);
}

__attribute__((noinline, noipa)) void mark(void)
{
	__asm__ volatile("nop; nop; nop; nop; nop; nop; nop; nop");
}

static void floods(pid_t of)
{
	for (;;) {
		in_runs();
		*go = 0;
		kill(of, SIGSEGV);
	}
}

/* A run that reads nothing is left; what is met then is no run. */
static void jump(void)
{
	LIBBPF_OPTS(bpf_uprobe_opts, opts, .func_name = "mark");
	struct bpf_link *link = bpf_program__attach_uprobe_opts(
		bpf_object__find_program_by_name(obj, "hit"), -1, "/proc/self/exe", 0, &opts);
	struct sigaction now;
	pid_t child;
	int ours = 0;

	if (!link)
		exit(4);
	runs();
	set(SIGSEGV, on_jump, 0);
	child = child_of(floods);
	for (volatile int i = 0; i < 200 && !in_run; i++)
		if (!sigsetjmp(back, 1)) {
			*go = 1;
			run_for("nothing", 2000);
		}
	end(child);
	fprintf(stderr, "in a run %d\n", in_run); /* on the kernel it comes behind the command */
	set(SIGSEGV, on_signal, 0);
	for (int i = 0; i < HITS; i++) {
		mark();
		sigaction(SIGBUS, NULL, &now);
		ours += now.sa_handler != SIG_DFL;
		sigaction(SIGSEGV, NULL, &now);
		ours += now.sa_sigaction != on_signal;
	}
	printf("hits %lu refused %lu ours %d blocked %lx", state->hits, state->refused, ours,
	       blocked());
	own_fault(SIGSEGV);
	interrupted = 0;
	runs();
	own_fault(SIGSEGV);
	bpf_link__destroy(link);
}

static void *once(void *unused)
{
	runs();
	return unused;
}

static void threads(void)
{
	pthread_t t;

	runs();
	for (int i = 0; i < 3; i++) {
		pthread_create(&t, NULL, once, NULL);
		pthread_join(t, NULL);
		runs();
	}
}

/* A child has no page until it looks at it, and the kernel's programs do not make it come. */
static void touch(void)
{
	*(volatile char *)memory;
	*(volatile char *)file;
	if (is("changes"))
		*(volatile char *)(memory + PAGE);
}

static void forks(void)
{
	struct sigaction now;
	int status, bad = 0;
	pid_t child;

	runs();
	for (int i = 0; i < 3; i++) {
		child = fork();
		if (!child) {
			sigaction(SIGSEGV, NULL, &now);
			bad = now.sa_handler != SIG_DFL;
			touch();
			runs();
			_exit(bad + (wrong != 0) * 2 + (interrupted != 0) * 4);
		}
		waitpid(child, &status, 0);
		printf("child %x ", (unsigned int)status);
		runs();
	}
	child = fork();
	if (!child) {
		runs();
		*(volatile char *)0x1230 = 1;
	}
	waitpid(child, &status, 0);
	printf("ended by %d", WTERMSIG(status));
	runs();
}

static void plain(int sig)
{
	(void)sig;
	handled++;
	siglongjmp(back, 1);
}

/* Handlers that come between runs, in each way, are there behind them, and get what is theirs. */
static void setters(void)
{
	struct {
		void *handler;
		unsigned long flags;
		void *restorer;
		unsigned long mask;
	} raw = { 0 }, now;
	stack_t alt = { .ss_sp = malloc(1 << 16), .ss_size = 1 << 16 };

	runs();
	set(SIGSEGV, on_signal, 0);
	runs();
	own_fault(SIGSEGV);
	signal(SIGSEGV, plain);
	runs();
	if (!sigsetjmp(back, 1))
		*(volatile char *)0x1230 = 1;
	printf(" plain %d", handled);
	set(SIGSEGV, on_signal, SA_ONSTACK);
	set(SIGBUS, on_signal, SA_ONSTACK);
	sigaltstack(&alt, NULL);
	runs();
	own_fault(SIGSEGV);
	own_fault(SIGBUS);
	syscall(SYS_rt_sigaction, SIGSEGV, NULL, &raw, 8);
	raw.mask |= 1ul << (SIGUSR1 - 1);
	syscall(SYS_rt_sigaction, SIGSEGV, &raw, NULL, 8);
	runs();
	syscall(SYS_rt_sigaction, SIGSEGV, NULL, &now, 8);
	printf(" kept %d", !memcmp(&raw, &now, sizeof(now)));
	own_fault(SIGSEGV);
}

/* To block the signals is to be killed by a fault: one's own, no program's. */
static void masks(void)
{
	sigset_t set;

	sigfillset(&set);
	runs();
	sigprocmask(SIG_BLOCK, &set, NULL);
	runs();
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	runs();
	sigemptyset(&set);
	sigaddset(&set, SIGBUS);
	sigprocmask(SIG_BLOCK, &set, NULL);
	runs();
	printf("blocked %lx", blocked());
}

static long call(long nr, long a, long b, long c, long d, long e)
{
	register long fourth __asm__("r10") = d;
	register long fifth __asm__("r8") = e;
	register long sixth __asm__("r9") = 0;

	__asm__ volatile("syscall"
			 : "+a"(nr)
			 : "D"(a), "S"(b), "d"(c), "r"(fourth), "r"(fifth), "r"(sixth)
			 : "rcx", "r11", "memory");
	return nr;
}

/* A process that shares this memory, without being a thread. Makes calls by its own instructions, since it has
 * the other's thread's block, and looks at the page, since the kernel's programs do not make it come. */
static int brings(void *at)
{
	while (state->tries < 1000)
		;
	if (at == file + PAGE)
		call(SYS_ftruncate, file_fd, 2 * PAGE, 0, 0, 0);
	else
		call(SYS_mmap, (long)at, PAGE, PROT_READ, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1);
	*(volatile char *)at;
	call(SYS_exit, 0, 0, 0, 0, 0);
	return 0;
}

/* What nobody could read is there all at once, in the middle of runs. */
static void appears(void)
{
	char *stack = malloc(1 << 16), *at = (is("file grows") ? file : memory) + PAGE;
	pid_t child;

	state->look_at = (unsigned long)at;
	child = clone(brings, stack + (1 << 16), CLONE_VM | SIGCHLD, at);
	run_for("waits", LONGEST);
	printf("found %lu early %d", state->found, state->tries < LONGEST);
	end(child);
	free(stack);
}

/* Between commands. */
static void changes(void)
{
	state->look_at = (unsigned long)memory + PAGE;
	run_for("waits", 100);
	printf("found %lu ", state->found);
	mprotect(memory + PAGE, PAGE, PROT_READ);
	touch();
	run_for("waits", 100);
	printf("found %lu ", state->found);
	state->found = 0;
	munmap(memory + PAGE, PAGE);
	run_for("waits", 100);
	printf("found %lu", state->found);
}

/* Others attach to this process in the middle of runs: it is in conversations. Until stdin ends. */
static void visited(void)
{
	struct pollfd in = { .fd = 0, .events = POLLIN };

	set(SIGSEGV, on_signal, 0);
	printf("ready\n");
	fflush(stdout);
	while (!poll(&in, 1, 0)) {
		run("reads");
		mark();
	}
	own_fault(SIGSEGV);
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	mode = argv[2];
	go = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	load(argv[1]);
	state = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
		     bpf_object__find_map_fd_by_name(obj, ".data.state"), 0);
	if (is("jump"))
		jump();
	else if (is("as it is"))
		as_it_is();
	else if (is("threads"))
		threads();
	else if (is("forks"))
		forks();
	else if (is("setters"))
		setters();
	else if (is("masks"))
		masks();
	else if (is("changes"))
		changes();
	else if (is("file grows") || is("is mapped"))
		appears();
	else if (is("visited"))
		visited();
	else if (is("execs") || is("execd"))
		runs();
	else
		bus();
	printf(" wrong %d interrupted %d\n", wrong, interrupted);
	fflush(stdout);
	if (is("execs"))
		execl("/proc/self/exe", argv[0], argv[1], "execd", NULL);
	return 0;
}
