/*
 * calls [-n ROUNDS] [-t THREADS] [-f FORKS] [-r DEPTH] [-m MODE] [-w | -l] [-p PLUGIN]
 *
 * Calls known functions with known arguments a known number of times. Per thread and round
 * i (from 0), mode "all": v_tick(), v_add(i, 2), v_scale(i * i), v_greet(names[i % 3], i),
 * v_six(i, 1, 2, 3, 4, 5), v_label(i % 4), v_steps(i), v_half(i, i), lib_work(i).
 * Mode "tick": v_value(i) alone.
 * -r: v_fib(DEPTH) once. -p: dlopen PLUGIN, plug_work(i) each round. -f: the same again in
 * each of FORKS children. -w: print "pid N", then wait for a line (or end) of stdin.
 * -l: obeys stdin until its end: a number does that many rounds and prints "done N"; "bytes"
 * prints the first 16 bytes of each function, so that a test sees the code restored.
 * Names of the threads are t0, t1, ...; the main thread does the work when THREADS is 0.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define EXPORT __attribute__((noinline, noclone, noipa, visibility("default")))

static long rounds = 10;
static int threads, forks, depth, tick_only;
static long (*plug_work)(long);
static volatile long sink;

long lib_work(long x);

EXPORT void v_tick(void)
{
	__asm__ volatile("");
}

EXPORT long v_value(long x)
{
	return x + sink;
}

EXPORT int v_add(int a, int b)
{
	return a + b;
}

EXPORT long v_scale(long x)
{
	return x * 3;
}

EXPORT size_t v_greet(const char *name, int n)
{
	return strlen(name) + (size_t)n;
}

EXPORT long v_six(long a, long b, long c, long d, long e, long f)
{
	return a + 10 * b + 100 * c + 1000 * d + 10000 * e + 100000 * f;
}

static inline const char *label_at(int i)
{
	static const char *const labels[] = { "north", "east", "south", "west" };

	return labels[i & 3];
}

EXPORT const char *v_label(int i)
{
	return label_at(i);
}

EXPORT int v_fib(int n)
{
	return n < 2 ? n : v_fib(n - 1) + v_fib(n - 2);
}

/* Instructions at known offsets: v_steps+0, +1, +5, +8, +12, +13. */
EXPORT long v_steps(long a);
__asm__(".pushsection .text; .p2align 4; .globl v_steps; .type v_steps, @function\n"
	"v_steps: push %rbx; lea 1(%rdi), %rbx; mov %rbx, %rax; add $7, %rax; pop %rbx; ret\n"
	".size v_steps, . - v_steps; .popsection");

EXPORT double v_half(double x, long i)
{
	return x / 2 + (double)i;
}

static void work(void)
{
	static const char *const names[] = { "alice", "bob", "carol" };
	long sum = 0;

	/* A page that a fork child has not touched yet reads as a fault in the kernel's programs. */
	for (int i = 0; i < 4; i++)
		sum += *(const volatile char *)names[i % 3] + *(const volatile char *)label_at(i);
	for (long i = 0; i < rounds; i++) {
		if (tick_only) {
			sum += v_value(i);
			continue;
		}
		v_tick();
		sum += v_add((int)i, 2);
		sum += v_scale(i * i);
		sum += (long)v_greet(names[i % 3], (int)i);
		sum += v_six(i, 1, 2, 3, 4, 5);
		sum += *v_label((int)(i % 4));
		sum += v_steps(i);
		sum += (long)v_half((double)i, i);
		sum += lib_work(i);
		if (plug_work)
			sum += plug_work(i);
	}
	if (depth)
		sum += v_fib(depth);
	sink = sum * 0;
}

static void *thread_main(void *number)
{
	char name[16];

	snprintf(name, sizeof(name), "t%d", (int)(long)number);
	prctl(PR_SET_NAME, name, 0, 0, 0);
	work();
	return NULL;
}

static int run_threads(void)
{
	pthread_t all[256];

	if (!threads)
		work();
	for (int i = 0; i < threads; i++)
		if (pthread_create(&all[i], NULL, thread_main, (void *)(long)i))
			return 1;
	for (int i = 0; i < threads; i++)
		pthread_join(all[i], NULL);
	return 0;
}

static int run_forks(void)
{
	int failed = 0, status;

	for (int i = 0; i < forks; i++) {
		pid_t pid = fork();

		if (pid < 0)
			return 1;
		if (!pid)
			_exit(run_threads());
	}
	while (wait(&status) > 0)
		failed |= status != 0;
	return failed;
}

static void print_bytes(void)
{
	const void *const functions[] = { (void *)v_tick,  (void *)v_value, (void *)v_add,
					  (void *)v_scale, (void *)v_greet, (void *)v_six,
					  (void *)v_label, (void *)v_steps, (void *)lib_work };

	printf("bytes ");
	for (unsigned int f = 0; f < sizeof(functions) / sizeof(functions[0]); f++)
		for (int i = 0; i < 16; i++)
			printf("%02x", ((const unsigned char *)functions[f])[i]);
	printf("\n");
}

static int obey(void)
{
	char line[32];

	printf("pid %d\n", getpid());
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		if (!strcmp(line, "bytes\n")) {
			print_bytes();
		} else {
			rounds = atol(line);
			if (run_threads() || run_forks())
				return 4;
			printf("done %ld\n", rounds);
		}
		fflush(stdout);
	}
	return 0;
}

static void load_plugin(const char *path)
{
	void *handle = dlopen(path, RTLD_NOW);

	plug_work = handle ? (long (*)(long))dlsym(handle, "plug_work") : NULL;
	if (!plug_work) {
		fprintf(stderr, "calls: %s\n", dlerror());
		exit(2);
	}
}

int main(int argc, char **argv)
{
	int wait_for_go = 0, obeys = 0, option;
	const char *plugin = NULL;
	char line[16];

	while ((option = getopt(argc, argv, "n:t:f:r:m:p:wl")) != -1) {
		switch (option) {
		case 'n': rounds = atol(optarg); break;
		case 't': threads = atoi(optarg); break;
		case 'f': forks = atoi(optarg); break;
		case 'r': depth = atoi(optarg); break;
		case 'm': tick_only = !strcmp(optarg, "tick"); break;
		case 'p': plugin = optarg; break;
		case 'w': wait_for_go = 1; break;
		case 'l': obeys = 1; break;
		default: return 2;
		}
	}
	if (threads < 0 || threads > 256)
		return 2;
	if (wait_for_go) {
		printf("pid %d\n", getpid());
		fflush(stdout);
		if (!fgets(line, sizeof(line), stdin))
			return 3;
	}
	if (plugin)
		load_plugin(plugin);
	if (obeys)
		return obey();
	return run_threads() || run_forks();
}
