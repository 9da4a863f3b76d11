/*
 * testreads FILE.bpf.o MODE: test runs of programs that read, while a child looks at which of SIGSEGV and SIGBUS the
 * process catches, and may send one. Prints how often it saw both, what the runs found wrong, and what is left behind.
 */
#define _GNU_SOURCE
#include "testreads.h"
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ROUNDS = 5 /* the reads of one may be 70,000 system calls */, MOST = 20000 };

struct shared {
	volatile int seen, go, send;
};
static struct shared *shared;
static const char *mode;
static volatile int handled, from;
static volatile void *where;
static sigjmp_buf back;

static int is(const char *name)
{
	return !strcmp(mode, name);
}

static void watch(pid_t of)
{
	char path[64], text[4096];
	unsigned long caught, both = 1ul << (SIGSEGV - 1) | 1ul << (SIGBUS - 1);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	snprintf(path, sizeof(path), "/proc/%d/status", of);
	for (;;) {
		FILE *f = fopen(path, "r");
		size_t n = f ? fread(text, 1, sizeof(text) - 1, f) : 0;
		char *line;

		if (!n)
			_exit(0);
		fclose(f);
		text[n] = 0;
		line = strstr(text, "SigCgt:");
		caught = line ? strtoul(line + 7, NULL, 16) & both : 0;
		if (caught == both) {
			shared->seen++;
			if (shared->send) {
				shared->send = 0;
				kill(of, SIGSEGV);
			}
		}
	}
}

static void runs(const char *name, int until)
{
	for (int i = 0; until ? i < MOST && !shared->seen : i < ROUNDS; i++)
		run(name);
}

static void on_signal(int sig, siginfo_t *info, void *uc)
{
	(void)sig, (void)uc;
	handled++;
	from = info->si_code <= 0 ? info->si_pid : 0;
	where = info->si_addr;
	if (info->si_code > 0)
		siglongjmp(back, 1);
}

static void on_usr1(int sig)
{
	(void)sig;
	runs("reads", 0);
}

static void *sleeper(void *arg)
{
	(void)arg;
	for (;;)
		pause();
	return NULL;
}

static int ready(void *ctx, void *data, size_t size)
{
	(void)ctx, (void)data, (void)size;
	return 0;
}

static void set(int sig, void *handler, int flags)
{
	struct sigaction action = { .sa_flags = flags | SA_SIGINFO };

	action.sa_sigaction = (void (*)(int, siginfo_t *, void *))handler;
	sigaddset(&action.sa_mask, SIGUSR2);
	sigaction(sig, &action, NULL);
}

/* Of the mask, only what the kernel knows of is anything. */
static int differ(const struct sigaction *a, const struct sigaction *b)
{
	return a->sa_handler != b->sa_handler || a->sa_flags != b->sa_flags ||
	       memcmp(&a->sa_mask, &b->sa_mask, 8) != 0;
}

int main(int argc, char **argv)
{
	struct sigaction before[2] = { 0 }, after[2] = { 0 };
	stack_t alt = { .ss_sp = malloc(1 << 18), .ss_size = 1 << 18 };
	pthread_t thread;
	sigset_t mask;
	pid_t child;

	if (argc != 3)
		return 2;
	mode = argv[2];
	shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	load(argv[1]);
	sigaltstack(&alt, NULL);
	if (is("handler") || is("told"))
		set(SIGSEGV, on_signal, SA_ONSTACK | SA_RESTART);
	if (is("ignored"))
		set(SIGSEGV, SIG_IGN, 0);
	if (is("other"))
		set(SIGFPE, on_signal, 0);
	if (is("altstack"))
		set(SIGUSR1, on_usr1, SA_ONSTACK);
	if (is("thread"))
		pthread_create(&thread, NULL, sleeper, NULL);
	if (is("ring"))
		ring_buffer__new(bpf_object__find_map_fd_by_name(obj, "ring"), ready, NULL, NULL);
	sigemptyset(&mask);
	sigaddset(&mask, is("blocked") ? SIGSEGV : SIGUSR2);
	sigprocmask(SIG_BLOCK, &mask, NULL);
	shared->send = is("killed") || is("told") || is("ignored");
	sigaction(SIGSEGV, NULL, &before[0]);
	sigaction(SIGBUS, NULL, &before[1]);
	child = fork();
	if (!child)
		watch(getppid());
	if (is("altstack"))
		raise(SIGUSR1);
	else if (is("nothing"))
		runs("nothing", 0);
	else
		runs("reads", !is("thread") && !is("blocked") && !is("other") && !is("off"));
	if (is("ignored") || is("told"))
		runs("reads", 0); /* the signal has come */
	sigaction(SIGSEGV, NULL, &after[0]);
	sigaction(SIGBUS, NULL, &after[1]);
	printf("seen %d wrong %d left %d handled %d interrupted %d from %d\n", shared->seen > 0, wrong,
	       differ(&before[0], &after[0]) + differ(&before[1], &after[1]), handled, interrupted > 0,
	       from == child);
	fflush(stdout);
	if (is("handler") && !sigsetjmp(back, 1))
		*(volatile char *)16 = 0;
	if (is("handler"))
		printf("its own %d at %p\n", handled, where);
	if (is("fault"))
		*(volatile char *)16 = 0;
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	return 0;
}
