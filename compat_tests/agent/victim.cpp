/*
 * A program to be probed: `victim MODE ...`. Each probed function begins with one nop of five bytes
 * (a window of one instruction) or five of one byte, in assembly, so that tests know the bytes.
 * Prints one line of results for the test to compare.
 */
#include <csetjmp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <execinfo.h>
#include <pthread.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <ctime>
#include <unistd.h>

#define PROBED(name, nop) \
	__asm__(".text\n.globl " #name "\n.type " #name ", @function\n" #name \
		":\n\t.cfi_startproc\n\t" nop "\n\tjmp " #name "_body\n\t.cfi_endproc\n")
#define NOP5 ".byte 0x0f, 0x1f, 0x44, 0, 0"
#define NOPS ".byte 0x90, 0x90, 0x90, 0x90, 0x90"

extern "C" {
long work(long x);
long deep(long n);
long thrower(long n);
long jumper(long n);
long many(long x);
__int128 wide(double x, long y);
long tail(long x);
long tail_end(long x);

PROBED(work, NOP5);
PROBED(deep, NOP5);
PROBED(thrower, NOP5);
PROBED(jumper, NOP5);
PROBED(many, NOPS);
PROBED(wide, NOP5);
PROBED(tail, NOP5);
PROBED(tail_end, NOP5);

static volatile long sink;
static jmp_buf back;
static int frames;

__attribute__((noinline)) long work_body(long x)
{
	sink = x;
	return x + 1;
}

__attribute__((noinline)) long many_body(long x)
{
	return x + 2;
}

__attribute__((noinline)) long deep_body(long n)
{
	return n ? deep(n - 1) + 1 : 0;
}

__attribute__((noinline)) long thrower_body(long n)
{
	if (!n)
		throw 42L;
	long r = thrower(n - 1);
	sink = r;
	return r;
}

__attribute__((noinline)) long jumper_body(long n)
{
	if (!n)
		longjmp(back, 7);
	long r = jumper(n - 1);
	sink = r;
	return r;
}

__attribute__((noinline)) __int128 wide_body(double x, long y)
{
	return ((__int128)(long)x << 64) | (unsigned long)y;
}

long tail_body(long x);
__asm__(".text\n.type tail_body, @function\ntail_body:\n\tadd $10, %rdi\n\tjmp tail_end\n");

__attribute__((noinline)) long tail_end_body(long x)
{
	void *at[64];

	frames = backtrace(at, 64);
	return x * 2;
}

/* Calls work(x) with the stack `by` bytes off what the ABI has, and all that a call keeps in use; the answer, -1 if
 * one was changed. */
long askew(long x, long by);
__asm__(".text\n.type askew, @function\naskew:\n"
	"\tpush %rbp\n\tmov %rsp, %rbp\n\tpush %rbx\n\tpush %r12\n\tpush %r13\n\tpush %r14\n\tpush "
	"%r15\n"
	"\tsub $8, %rsp\n\tsub %rsi, %rsp\n"
	"\tmov $1, %ebx\n\tmov $2, %r12d\n\tmov $3, %r13d\n\tmov $4, %r14d\n\tmov $5, %r15d\n"
	"\tcall work\n"
	"\tshl $4, %rbx\n\tor %r12, %rbx\n\tshl $4, %rbx\n\tor %r13, %rbx\n\tshl $4, %rbx\n\tor %r14, "
	"%rbx\n"
	"\tshl $4, %rbx\n\tor %r15, %rbx\n\tcmp $0x12345, %rbx\n\tje 1f\n\tmov $-1, %rax\n"
	"1:\tmov -8(%rbp), %rbx\n\tmov -16(%rbp), %r12\n\tmov -24(%rbp), %r13\n\tmov -32(%rbp), %r14\n"
	"\tmov -40(%rbp), %r15\n\tmov %rbp, %rsp\n\tpop %rbp\n\tret\n");
}

/* Each place of the aligned stack's was another's a few bytes above before. */
static long all_askew(long n)
{
	static const long by[] = { 16, 8, 4 };
	long bad = 0;

	for (long i = 0; i < n; i++)
		bad += askew(i, by[i % 3]) != i + 1;
	return bad;
}

static void *worker(void *arg)
{
	long n = (long)arg, bad = 0;

	for (long i = 0; i < n; i++)
		bad += work(i) != i + 1;
	return (void *)bad;
}

static long threads(long count, long n)
{
	pthread_t t[64];
	long bad = 0;

	for (long i = 0; i < count; i++)
		pthread_create(&t[i], NULL, worker, (void *)n);
	for (long i = 0; i < count; i++) {
		void *r;

		pthread_join(t[i], &r);
		bad += (long)r;
	}
	return bad;
}

static long catching(long depth, long rounds)
{
	long ok = 0;

	for (long i = 0; i < rounds; i++) {
		try {
			thrower(depth);
		} catch (long v) {
			ok += v == 42;
		}
		ok += work(i) == i + 1 ? 0 : -1000;
	}
	return ok;
}

static long jumping(long depth, long rounds)
{
	volatile long ok = 0;

	for (volatile long i = 0; i < rounds; i++) {
		if (setjmp(back) == 7)
			ok = ok + 1;
		else
			jumper(depth);
	}
	return ok;
}

struct mix {
	long rounds, ok;
};

static void *mixer(void *arg)
{
	mix *m = (mix *)arg;

	m->ok = catching(20, m->rounds);
	for (long i = 0; i < m->rounds; i++)
		m->ok += deep(30) == 30;
	return NULL;
}

static long mixed(long rounds)
{
	pthread_t t[8];
	mix m[8];
	long ok = 0;

	for (int i = 0; i < 8; i++) {
		m[i].rounds = rounds;
		pthread_create(&t[i], NULL, mixer, &m[i]);
	}
	for (int i = 0; i < 8; i++) {
		pthread_join(t[i], NULL);
		ok += m[i].ok;
	}
	return ok;
}

/* Two fibres on heap stacks, switched inside probed functions: returns do not come in LIFO order. */
static ucontext_t ctx_main, ctx[2];
static long fibre_sum;

static void fibre(int which)
{
	for (long i = 0; i < 200; i++)
		fibre_sum += deep(i % 20);
	swapcontext(&ctx[which], &ctx_main);
}

extern "C" long swap(long which);
PROBED(swap, NOP5);
extern "C" __attribute__((noinline)) long swap_body(long which)
{
	swapcontext(&ctx[which], &ctx[!which]);
	return which + 100;
}

static void ping(int which)
{
	for (int i = 0; i < 50; i++) {
		fibre_sum += swap(which);
		fibre_sum += deep(3);
	}
	swapcontext(&ctx[which], &ctx_main);
}

static long fibres(void)
{
	static char stacks[2][65536];

	for (int i = 0; i < 2; i++) {
		getcontext(&ctx[i]);
		ctx[i].uc_stack.ss_sp = stacks[i];
		ctx[i].uc_stack.ss_size = sizeof(stacks[i]);
		makecontext(&ctx[i], (void (*)())ping, 1, i);
	}
	swapcontext(&ctx_main, &ctx[0]);
	swapcontext(&ctx_main, &ctx[1]);
	(void)fibre;
	return fibre_sum;
}

/* Fibres that wait in a probed function, each on a stack of its own, while others are called:
 * what a call costs then, in reads of this process's memory by a system call. */
static ucontext_t parked[64];

extern "C" long park(long which);
PROBED(park, NOP5);
extern "C" __attribute__((noinline)) long park_body(long which)
{
	swapcontext(&parked[which], &ctx_main);
	return which;
}

static void parker(int which)
{
	fibre_sum += park(which);
	swapcontext(&parked[which], &ctx_main);
}

static double spent(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void parking(void)
{
	enum { N = 20000 };
	static char stacks[64][65536];
	long word = 0, copy;
	iovec to = { &copy, 8 }, from = { &word, 8 };
	double begin, reads, calls;

	signal(SIGSEGV, _exit);
	for (int i = 0; i < 64; i++) {
		getcontext(&parked[i]);
		parked[i].uc_stack.ss_sp = stacks[i];
		parked[i].uc_stack.ss_size = sizeof(stacks[i]);
		makecontext(&parked[i], (void (*)())parker, 1, i);
		swapcontext(&ctx_main, &parked[i]);
	}
	begin = spent();
	for (int i = 0; i < N; i++)
		process_vm_readv(getpid(), &to, 1, &from, 1, 0);
	reads = spent() - begin;
	begin = spent();
	for (int i = 0; i < N; i++)
		word += deep(0);
	calls = spent() - begin;
	for (auto &fibre : parked)
		swapcontext(&ctx_main, &fibre);
	deep(9);
	printf("sum %ld a call: %s reads\n", fibre_sum, calls < 16 * reads ? "few" : "many");
}

static volatile long handled;

static void on_signal(int)
{
	handled = handled + (work(handled) >= 0);
}

static long storm(long n)
{
	struct itimerval *none = NULL;
	pthread_t self = pthread_self();
	long bad = 0;

	(void)none;
	signal(SIGUSR1, on_signal);
	for (long i = 0; i < n; i++) {
		if (i % 16 == 0)
			pthread_kill(self, SIGUSR1);
		bad += work(i) != i + 1;
	}
	return bad;
}

static void *peck(void *arg)
{
	pthread_t to = *(pthread_t *)arg;

	for (int i = 0; i < 20000; i++)
		pthread_kill(to, SIGUSR1);
	return NULL;
}

static long forks(long children, long n)
{
	long bad = 0;

	for (long i = 0; i < children; i++) {
		pid_t pid = fork();

		if (!pid) {
			for (long j = 0; j < n; j++)
				work(j);
			_exit(0);
		}
		int status;

		waitpid(pid, &status, 0);
		bad += status != 0;
	}
	return bad;
}

/* A child made inside a probed function returns through the slot it inherited. */
extern "C" long forker(long x);
PROBED(forker, NOP5);
extern "C" __attribute__((noinline)) long forker_body(long)
{
	return fork();
}

/* Calls work() for each line read, and says so: the test decides when. */
static void lines(void)
{
	char buf[64];

	while (fgets(buf, sizeof(buf), stdin)) {
		long n = strtol(buf, NULL, 10), bad = 0;

		for (long i = 0; i < n; i++)
			bad += work(i) != i + 1;
		printf("did %ld bad %ld\n", n, bad);
		fflush(stdout);
	}
}

static volatile int stop_spinning;

static void *spin(void *)
{
	long n = 0;

	while (!stop_spinning)
		n += work(n) == n + 1 && many(n) == n + 2;
	return (void *)n;
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";
	long a = argc > 2 ? atol(argv[2]) : 0, b = argc > 3 ? atol(argv[3]) : 0;

	if (!strcmp(mode, "threads"))
		printf("bad %ld\n", threads(a, b));
	else if (!strcmp(mode, "askew"))
		printf("bad %ld\n", all_askew(a));
	else if (!strcmp(mode, "deep"))
		printf("deep %ld\n", deep(a));
	else if (!strcmp(mode, "throw"))
		printf("caught %ld\n", catching(a, b));
	else if (!strcmp(mode, "jump"))
		printf("jumped %ld\n", jumping(a, b));
	else if (!strcmp(mode, "mixed"))
		printf("ok %ld\n", mixed(a));
	else if (!strcmp(mode, "fibres"))
		printf("sum %ld\n", fibres());
	else if (!strcmp(mode, "parking"))
		parking();
	else if (!strcmp(mode, "fork"))
		printf("bad %ld\n", forks(a, b));
	else if (!strcmp(mode, "wide")) {
		__int128 r = wide(3.0, -5);

		printf("%ld %ld\n", (long)(r >> 64), (long)r);
	} else if (!strcmp(mode, "tail")) {
		long r = tail(5);

		printf("%ld frames %d\n", r, frames);
	} else if (!strcmp(mode, "storm")) {
		pthread_t self = pthread_self(), t;

		signal(SIGUSR1, on_signal);
		pthread_create(&t, NULL, peck, &self);
		long bad = storm(a);
		pthread_join(t, NULL);
		printf("bad %ld handled %ld\n", bad, (long)handled);
	} else if (!strcmp(mode, "forker")) {
		pid_t pid = (pid_t)forker(0);

		if (!pid)
			_exit(3);
		int status;

		waitpid(pid, &status, 0);
		printf("child %d\n", WEXITSTATUS(status));
	} else if (!strcmp(mode, "lines")) {
		printf("ready\n");
		fflush(stdout);
		lines();
	} else if (!strcmp(mode, "spin")) {
		pthread_t t[3];
		long sum = 0;

		for (auto &i : t)
			pthread_create(&i, NULL, spin, NULL);
		printf("ready\n");
		fflush(stdout);
		if (getchar() == EOF)
			stop_spinning = 1;
		stop_spinning = 1;
		for (auto &i : t) {
			void *r;

			pthread_join(i, &r);
			sum += (long)r;
		}
		printf("did %ld\n", sum);
	} else if (!strcmp(mode, "dlopen")) {
		void *lib = dlopen(argv[2], RTLD_NOW);

		printf("%s\n", lib ? "loaded" : dlerror());
	} else if (!strcmp(mode, "run")) {
		long (*run)(unsigned, unsigned, unsigned long long *) = (long (*)(
			unsigned, unsigned, unsigned long long *))dlsym(RTLD_DEFAULT, "test_run_prog");
		unsigned long long r0 = 0;
		long ret = run((unsigned)a, (unsigned)b, &r0);

		printf("%ld %llu\n", ret, r0);
	} else {
		return 2;
	}
	return 0;
}
