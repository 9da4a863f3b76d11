/*
 * Probed at its own returns by test_returns.py; answers lines on stdin as victim.c does:
 *	NAME N		does what NAME says N times, "NAME RESULT"
 * The functions of libc that it calls look at their own return address.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

static jmp_buf place;
static sigjmp_buf masked;

static __attribute__((noinline)) void jump_back(int value)
{
	if (value)
		longjmp(place, value);
	siglongjmp(masked, 1);
}

/* Three returns for each call of setjmp. */
static long setjmps(long n)
{
	volatile long sum = 0;

	for (volatile long i = 0; i < n; i++) {
		int got = setjmp(place);

		sum = sum + got;
		if (got < 2)
			jump_back(got + 1);
		if (!sigsetjmp(masked, 1))
			jump_back(0);
	}
	return sum;
}

/* The same through _setjmp and setjmp as functions, from a frame that is used again. */
static __attribute__((noinline)) long both(long x)
{
	volatile long seen = 0;

	if (!_setjmp(place))
		longjmp(place, 3);
	seen = seen + 1;
	if (!(setjmp)(place))
		longjmp(place, 3);
	return x + seen;
}

static long mixed(long n)
{
	long sum = 0;

	for (long i = 0; i < n; i++)
		sum += both(i) - i;
	return sum;
}

/* It takes its two arguments off the stack as it returns. */
__asm__(".text\n.p2align 4\n.globl popping\n.type popping, @function\npopping:\n"
	"\tmov 8(%rsp), %rax\n\tsub 16(%rsp), %rax\n\tret $16\n.size popping, . - popping\n"
	".globl Builtins_Next\n.type Builtins_Next, @function\n" /* named as V8 names them */
	"Builtins_Next:\n\tmov (%rdi), %rdi\n\tjmp *%rdi\n.size Builtins_Next, . - Builtins_Next\n");

static long pops(long n)
{
	long sum = 0, got;

	for (long i = 0; i < n; i++) {
		__asm__ volatile("sub $128, %%rsp\n\tpush %1\n\tpush %2\n\tcall popping\n\t"
				 "add $128, %%rsp" /* the red zone */
				 : "=&a"(got)
				 : "r"(i), "r"(3 * i)
				 : "cc", "memory");
		sum += got;
	}
	return sum;
}

/* As libc's, in a file of our own: another process may be probed by its file alone. */
pid_t own_vfork(void) __attribute__((returns_twice));
__asm__(".text\n.p2align 4\n.globl own_vfork\n.type own_vfork, @function\nown_vfork:\n"
	"\tpop %rdi\n\tmov $58, %eax\n\tsyscall\n\tpush %rdi\n\tcmp $-4095, %rax\n\tjae 1f\n\tret\n"
	"1:\tmov $-1, %rax\n\tret\n.size own_vfork, . - own_vfork\n");

static __attribute__((noinline)) int own_child(void)
{
	int status = 0;
	pid_t pid = own_vfork();

	if (!pid)
		_exit(getpid() == getppid());
	return pid > 0 && waitpid(pid, &status, 0) == pid ? WEXITSTATUS(status) + 1 : -1;
}

static long own_vforks(long n)
{
	long sum = 0;

	for (long i = 0; i < n; i++)
		sum += own_child();
	return sum;
}

static __attribute__((noinline)) int child(void)
{
	int status = 0;
	pid_t pid = vfork();

	if (!pid)
		_exit(5);
	return pid > 0 && waitpid(pid, &status, 0) == pid ? WEXITSTATUS(status) : -1;
}

static long vforks(long n)
{
	long sum = 0;

	for (long i = 0; i < n; i++)
		sum += child();
	return sum;
}

/* RTLD_NEXT counts from the object that asks: here the program, behind which libc has it. */
int puts(const char *text)
{
	return fprintf(stdout, "%s\n", text);
}

static long next_ones(long n)
{
	void *libc = dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD), *want = dlsym(libc, "puts");
	long sum = 0;

	for (long i = 0; i < n; i++) {
		sum += dlsym(RTLD_NEXT, "puts") == want;
		sum += dlsym(RTLD_DEFAULT, "puts") == (void *)puts;
		sum += !dlsym(libc, "no such symbol") && dlerror();
		sum += dlvsym(RTLD_NEXT, "puts", "GLIBC_2.2.5") == want;
	}
	dlclose(libc);
	return sum;
}

static long opened(long n)
{
	long sum = 0;

	for (long i = 0; i < n; i++) {
		void *library = dlopen("libm.so.6", RTLD_NOW);

		sum += library && dlsym(library, "cos") && !dlclose(library);
		sum += !dlopen("/no/such/library.so", RTLD_NOW);
	}
	return sum;
}

static int one_object(struct dl_phdr_info *info, size_t size, void *data)
{
	(void)info;
	(void)size;
	++*(long *)data;
	return 0;
}

static long objects(long n)
{
	long sum = 0;

	for (long i = 0; i < n; i++) {
		long seen = 0;

		sum += !dl_iterate_phdr(one_object, &seen) && seen > 1;
	}
	return sum;
}

/* getcontext returns, and is gone back to twice. */
static long contexts(long n)
{
	volatile long sum = 0;

	for (volatile long i = 0; i < n; i++) {
		ucontext_t here;
		volatile int times = 0;

		getcontext(&here);
		times = times + 1;
		if (times < 3)
			setcontext(&here);
		sum = sum + times;
	}
	return sum;
}

/* Two fibres whose stacks lie in this frame, each gone on with by whichever thread is next. */
static ucontext_t fibres[2], hosts[2];
static long made;

static void fibre(int which)
{
	for (;;) {
		made += which + 1;
		swapcontext(&fibres[which], &hosts[which]);
	}
}

static void *turn(void *arg)
{
	long which = (long)arg;

	swapcontext(&hosts[which], &fibres[which]);
	return NULL;
}

static long swaps(long n)
{
	static char stacks[2][32768];

	made = 0;
	for (long i = 0; i < 2; i++) {
		getcontext(&fibres[i]);
		fibres[i].uc_stack.ss_sp = stacks[i];
		fibres[i].uc_stack.ss_size = sizeof(stacks[i]);
		makecontext(&fibres[i], (void (*)(void))fibre, 1, (int)i);
	}
	for (long i = 0; i < n; i++) {
		pthread_t thread;

		turn((void *)(i & 1));
		if (!pthread_create(&thread, NULL, turn, (void *)(i & 1)))
			pthread_join(thread, NULL);
	}
	return made;
}

/* All of them inside of it at once. */
static pthread_barrier_t meeting;

__attribute__((noinline)) long crowded(long x)
{
	pthread_barrier_wait(&meeting);
	return x + 1;
}

static void *one_of_many(void *arg)
{
	return (void *)crowded((long)arg);
}

static long crowd(long n)
{
	pthread_t *threads = calloc((size_t)n, sizeof(*threads));
	pthread_attr_t small;
	long right = 0;

	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 65536);
	pthread_barrier_init(&meeting, NULL, (unsigned int)n);
	for (long i = 0; i < n; i++)
		if (pthread_create(&threads[i], &small, one_of_many, (void *)i))
			abort();
	for (long i = 0; i < n; i++) {
		void *got;

		pthread_join(threads[i], &got);
		right += (long)got == i + 1;
	}
	free(threads);
	return right;
}

/* With a part that compilers put elsewhere and only jump to: its frame's lowest word is no address. */
long apart(long x);
__asm__(".text\n.p2align 4\n.type apart.cold, @function\napart.cold:\n"
	".cfi_startproc\n.cfi_def_cfa %rbp, 16\n"
	"\tmov $100, %esi\n\tjmp 1f\n.cfi_endproc\n.size apart.cold, . - apart.cold\n"
	".p2align 4\n.globl apart\n.type apart, @function\napart:\n"
	"\tpush %rbp\n\tmov %rsp, %rbp\n\tsub $16, %rsp\n\tmov %rdi, -16(%rbp)\n\txor %esi, %esi\n"
	"\ttest $1, %dil\n\tjne apart.cold\n"
	"1:\tmov -16(%rbp), %rax\n\tadd %rsi, %rax\n\tleave\n\tret\n.size apart, . - apart\n");

static long parts(long n)
{
	long sum = 0;

	for (long i = 0; i < n; i++)
		sum += apart(i) - i;
	return sum;
}

static const struct {
	const char *name;
	long (*run)(long n);
} deeds[] = {
	{ "setjmps", setjmps }, { "mixed", mixed },	{ "vforks", vforks },	  { "next", next_ones },
	{ "opened", opened },	{ "objects", objects }, { "contexts", contexts }, { "swaps", swaps },
	{ "own", own_vforks },	{ "crowd", crowd },	{ "parts", parts },	  { "pops", pops },
};

int main(void)
{
	char line[64], name[32];
	long n;

	printf("ready\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		if (sscanf(line, "%31s %ld", name, &n) != 2)
			return 2;
		for (size_t i = 0; i < sizeof(deeds) / sizeof(deeds[0]); i++)
			if (!strcmp(name, deeds[i].name))
				printf("%s %ld\n", name, deeds[i].run(n));
		fflush(stdout);
	}
	return 0;
}
