/*
 * `victim THREADS`: probed functions (functions.h) in every way a function can be left, checked
 * by their own answers, until a line comes on stdin. Prints "ready PID", and at the end
 *	wrong N rounds N dead N
 * and a line "INDEX CALLS RETURNS" a function; dead: children that a signal ended.
 */
#include "functions.h"

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <execinfo.h>
#include <pthread.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

extern char **environ;

enum { MAX_THREADS = 16, FIBRES = 4, FIBRE_STACK = 65536, CLIMB = 20 };

static volatile int stopping;
static long wrong, rounds, dead;
static __thread sigjmp_buf *escape;
/* Inside of what must not be left by an escape. */
static __thread volatile int careful;

extern "C" u64 climb(u64 x, long depth);

static void is(bool right, const char *what)
{
	if (right)
		return;
	if (__atomic_fetch_add(&wrong, 1, __ATOMIC_RELAXED) < 20)
		dprintf(2, "wrong: %s in %ld\n", what, syscall(SYS_gettid));
}

static u64 leaf_answer(u64 x, int n)
{
	return n % 4 == 3 && x == ~0ull ? 1 : mix(x, (u64)n);
}

/* The unwinder sees every frame, and where each was called from. */
static void look_back(long frames)
{
	void *at[200];
	int n = backtrace(at, 200), seen = 0;

	for (int i = 0; i < n; i++)
		seen += (u64)at[i] - (u64)climb < 256; /* one place: its call of itself */
	is(seen == frames, "backtrace");
}

extern "C" __attribute__((noinline)) u64 climb(u64 x, long depth)
{
	if (!depth) {
		look_back(CLIMB + 1);
		return x;
	}
	volatile u64 r = climb(x, depth - 1);

	return r + 1;
}

static void one(u64 x)
{
	int n = (int)(x % LEAVES);
	long depth = (long)(x >> 8) % 20;

	careful = careful + 1;
	is(leaves[n](x) == leaf_answer(x, n), "leaf");
	n = (int)((x >> 16) % DEEPS);
	if (x % 61 == 0)
		depth += 60; /* deeper than a block of slots */
	is(deeps[n](x, depth) == x + 2 * (u64)depth, "recursion");
	u64 want = x;
	n = (int)((x >> 20) % TAILS);
	for (int i = n; i < TAILS; i++)
		want = mix(want, (u64)i);
	is(tails[n](x) == (want ^ 0x5a), "tail calls");
	is(shapes(x) == 0, "shapes");
	careful = careful - 1;
}

static void exceptional(u64 x)
{
	int n = (int)(x % THROWS);
	long depth = (long)(x >> 8) % 12, before = alive;
	u64 got = 0;

	careful = careful + 1;
	try {
		throws[n](x, depth);
	} catch (thrown &t) {
		got = t.value;
	}
	careful = careful - 1;
	is(got == x + 2 * (u64)depth && alive == before, "exception");
}

static void jumping(u64 x)
{
	jmp_buf here;
	jmp_buf *volatile outer = landing;
	volatile int n = (int)(x % JUMPS);
	int got;

	careful = careful + 1;
	landing = &here;
	got = setjmp(here);
	if (!got)
		jumps[n](x, (long)(x >> 8) % 12);
	landing = outer;
	careful = careful - 1;
	is(got == (int)(x & 0xffff) + 1, "longjmp");
}

/* Signals: every handler goes through probed functions; some never return. */
static void on_signal(int sig)
{
	int saved = errno;
	static __thread u64 x;

	x = mix(x, 7);
	one(x);
	if (!careful && escape && x % 5 == 0) /* not out of malloc() */
		exceptional(x);
	errno = saved;
	if (escape && !careful && sig == SIGUSR2 && x % 3 == 0)
		siglongjmp(*escape, 1);
}

/* Functions that come and go only (driver.py's STEADY are others): left at any instruction. */
static void escaping(u64 x)
{
	sigjmp_buf here;
	timespec moment = { 0, 20000 };
	volatile u64 y = x;

	if (!sigsetjmp(here, 1)) {
		escape = &here;
		for (int i = 0; i < 50; i++) {
			y = mix(y, 3);
			int n = (int)(1 + y % 30);

			is(leaves[n](y) == leaf_answer(y, n), "leaf before an escape");
			is(deeps[1 + y % 8](y, 12) == y + 24, "recursion before an escape");
			if (y % 16 == 0)
				nanosleep(&moment, NULL);
		}
	}
	escape = NULL;
}

/* Processes: a child returns through what its parent was inside of. */
extern "C" __attribute__((noinline)) pid_t forked(u64 x)
{
	pid_t pid = fork();

	if (!pid)
		one(x);
	return pid;
}

extern "C" __attribute__((noinline)) pid_t borrowed(u64 x)
{
	pid_t pid = vfork();

	if (!pid) {
		leaves[x % LEAVES](x);
		deeps[x % DEEPS](x, 5);
		_exit(7);
	}
	deeps[x % DEEPS](x, 3);
	return pid;
}

static void reap(pid_t pid, int want)
{
	int status = 0;

	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFSIGNALED(status)) {
		__atomic_fetch_add(&dead, 1, __ATOMIC_RELAXED);
		dprintf(2, "child %d: signal %d\n", pid, WTERMSIG(status));
	}
	is(WIFEXITED(status) && WEXITSTATUS(status) == want, "child");
}

static void processes(u64 x)
{
	pid_t pid = forked(x);

	if (!pid) {
		long before = wrong;

		stopping = 0;
		exceptional(x);
		jumping(x);
		_exit(wrong == before ? 3 : 4);
	}
	if (pid > 0)
		reap(pid, 3);
	pid = borrowed(x);
	if (pid > 0)
		reap(pid, 7);
	char *argv[] = { (char *)"true", NULL };
	if (x % 4 == 0 && !posix_spawn(&pid, "/bin/true", NULL, NULL, argv, environ))
		reap(pid, 0);
}

/* Fibres: suspended inside probed functions, resumed by whichever thread comes next. */
static struct fibre {
	ucontext_t self, host;
	u64 x;
	long busy;
	bool over;
} fibres[FIBRES];

extern "C" __attribute__((noinline)) u64 yielding(struct fibre *f, u64 x)
{
	swapcontext(&f->self, &f->host);
	return x + 1;
}

static void run_fibre(int n)
{
	fibre *f = &fibres[n];

	while (!stopping) {
		f->x = mix(f->x, 11);
		is(deeps[f->x % DEEPS](f->x, 9) == f->x + 18, "recursion in a fibre");
		is(yielding(f, f->x) == f->x + 1, "fibre");
		is(leaves[n](f->x) == leaf_answer(f->x, n), "leaf in a fibre");
	}
	f->over = true;
	for (;;)
		swapcontext(&f->self, &f->host);
}

static void make_fibres()
{
	for (int n = 0; n < FIBRES; n++) {
		getcontext(&fibres[n].self);
		fibres[n].self.uc_stack.ss_sp = malloc(FIBRE_STACK);
		fibres[n].self.uc_stack.ss_size = FIBRE_STACK;
		makecontext(&fibres[n].self, (void (*)())run_fibre, 1, n);
	}
}

/* Without signals: their masks would travel with the fibres. */
static void resume(u64 x)
{
	fibre *f = &fibres[x % FIBRES];
	sigset_t all, before;

	if (__atomic_exchange_n(&f->busy, 1, __ATOMIC_ACQUIRE))
		return;
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &before);
	if (!f->over)
		swapcontext(&f->host, &f->self);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	__atomic_store_n(&f->busy, 0, __ATOMIC_RELEASE);
}

/* Threads that end inside probed functions. */
struct mayfly {
	u64 x;
	long cleaned;
	volatile bool never;
};

static void clean(void *arg)
{
	((mayfly *)arg)->cleaned++;
}

extern "C" __attribute__((noinline)) u64 leaving(mayfly *m, long depth)
{
	Guard guard;

	if (!depth) {
		if (m->x & 1)
			pthread_exit(m);
		while (!m->never)
			pause(); /* until it is cancelled */
	}
	return leaving(m, depth - 1) + 1;
}

static void *fly(void *arg)
{
	mayfly *m = (mayfly *)arg;

	pthread_cleanup_push(clean, m);
	one(m->x);
	leaving(m, (long)m->x % 9);
	pthread_cleanup_pop(0);
	return NULL;
}

static void mayflies(u64 x)
{
	mayfly m = { x, 0, false };
	pthread_t thread;
	void *result = NULL;

	if (pthread_create(&thread, NULL, fly, &m))
		return;
	if (!(x & 1))
		pthread_cancel(thread);
	pthread_join(thread, &result);
	/* one that is cancelled before it began has nothing to clean */
	is(x & 1 ? result == &m && m.cleaned == 1 : result == PTHREAD_CANCELED, "end of a thread");
}

static void use_alternate_stack(void)
{
	stack_t alt = {};

	alt.ss_size = 65536;
	alt.ss_sp = malloc(alt.ss_size);
	sigaltstack(&alt, NULL);
}

static void *work(void *arg)
{
	long id = (long)arg;
	u64 x = mix((u64)id, 1);

	if (id & 1)
		use_alternate_stack();
	for (long i = 0; !stopping; i++) {
		x = mix(x, (u64)id);
		one(x);
		if (i % 4 == 0)
			exceptional(x);
		if (i % 4 == 1)
			jumping(x);
		if (i % 8 == 2)
			escaping(x);
		if (i % 8 == 6)
			is(climb(x, CLIMB) == x + CLIMB, "climb");
		resume(x >> 3);
		if (i % 1024 == id * 64)
			processes(x);
		if (i % 128 == id * 8)
			mayflies(x >> 5);
		__atomic_fetch_add(&rounds, 1, __ATOMIC_RELAXED);
		if (i % 32 == 0)
			usleep(500); /* whoever attaches needs a processor too */
	}
	return NULL;
}

static void *pester(void *arg)
{
	pthread_t *to = (pthread_t *)arg;
	sigset_t all;
	timespec pause = { 0, 2000000 };

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, NULL);
	for (u64 i = 0; !stopping; i++) {
		for (int t = 0; to[t]; t++)
			pthread_kill(to[t], i % 2 ? SIGUSR1 : SIGUSR2);
		nanosleep(&pause, NULL);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	int count = argc > 1 ? atoi(argv[1]) : 8;
	pthread_t threads[MAX_THREADS + 1] = {}, other;
	struct sigaction act = {};
	char line[16];

	if (count < 1 || count > MAX_THREADS)
		return 2;
	tally = (counts *)mmap(NULL, sizeof(counts), PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	make_fibres();
	printf("ready %d\n", getpid());
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin))
		return 0;
	act.sa_handler = on_signal;
	act.sa_flags = SA_ONSTACK | SA_RESTART;
	sigaction(SIGUSR1, &act, NULL);
	sigaction(SIGUSR2, &act, NULL);
	for (long i = 0; i < count; i++)
		pthread_create(&threads[i], NULL, work, (void *)i);
	pthread_create(&other, NULL, pester, threads);
	printf("running\n");
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin))
		line[0] = 0;
	stopping = 1;
	pthread_join(other, NULL);
	for (int i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
	printf("wrong %ld rounds %ld dead %ld\n", wrong, rounds, dead);
	for (int i = 0; i < FUNCTIONS; i++)
		printf("%d %llu %llu\n", i, (unsigned long long)tally->calls[i],
		       (unsigned long long)tally->returns[i]);
	printf("end\n");
	fflush(stdout);
	if (fgets(line, sizeof(line), stdin)) /* the bytes of this text are read meanwhile */
		return wrong || dead;
	return wrong || dead;
}
