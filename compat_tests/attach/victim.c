/*
 * Probed by test_deliver.py; obeys lines on stdin:
 *	run N		calls one(), several() and loaded's plug_work() if any N times, "ran N"
 *	open PATH	dlopen, "opened"
 *	close		dlclose, "closed"
 *	threads N	starts N threads that call one() and several() until the end, "threads N"
 *	stop		ends them, "stopped COUNT": how often they called each
 *	die		ends the last of them where it is, "died"
 *	fork		"child PID": it obeys the same commands, given as "@ COMMAND"
 *	bytes NAME	16 bytes of the function, in hex
 * `victim -s ARGV...` refuses ptrace(2) to itself for good, then executes ARGV.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_THREADS 16

long one(long x);
long several(long x);

/* Windows of known shape: one instruction of five bytes; three instructions. */
__asm__(".text\n.p2align 4\n.globl one\n.type one, @function\none:\n"
	"\tmov $1, %eax\n\tadd %rdi, %rax\n\tret\n.size one, . - one\n"
	".p2align 4\n.globl several\n.type several, @function\nseveral:\n"
	"\tpush %rbx\n\tmov %rdi, %rbx\n\tlea 2(%rbx), %rax\n\tpop %rbx\n\tret\n"
	".size several, . - several\n");

static long (*plug_work)(long);
static void *plugin;
static volatile int stopping;
static pthread_t workers[MAX_THREADS];
static int nworkers;
static FILE *to_child, *from_child;

static void check(int right)
{
	if (!right)
		abort(); /* a function that is probed answers as before */
}

static void run(long rounds)
{
	for (long i = 0; i < rounds; i++) {
		check(one(i) == i + 1);
		check(several(i) == i + 2);
		if (plug_work)
			check(plug_work(i) == i + 100);
	}
	printf("ran %ld\n", rounds);
}

static void *spin(void *unused)
{
	long n = 0;

	(void)unused;
	for (; !stopping; n++) {
		check(one(n) == n + 1);
		check(several(n) == n + 2);
	}
	return (void *)n;
}

static void threads(int count)
{
	stopping = 0;
	for (nworkers = 0; nworkers < count && nworkers < MAX_THREADS; nworkers++)
		check(!pthread_create(&workers[nworkers], NULL, spin, NULL));
	printf("threads %d\n", nworkers);
}

static void exit_thread(int signo)
{
	(void)signo;
	syscall(SYS_exit, 0);
}

static void die(void)
{
	signal(SIGUSR1, exit_thread);
	check(nworkers && !pthread_kill(workers[--nworkers], SIGUSR1));
	check(!pthread_join(workers[nworkers], NULL));
	puts("died");
}

static void stop(void)
{
	long sum = 0;

	stopping = 1;
	while (nworkers) {
		void *n;

		pthread_join(workers[--nworkers], &n);
		sum += (long)n;
	}
	printf("stopped %ld\n", sum);
}

static void open_plugin(const char *path)
{
	plugin = dlopen(path, RTLD_NOW);
	plug_work = plugin ? (long (*)(long))dlsym(plugin, "plug_work") : NULL;
	puts(plug_work ? "opened" : dlerror());
}

static void close_plugin(void)
{
	plug_work = NULL;
	puts(plugin && !dlclose(plugin) ? "closed" : "not closed");
}

static void bytes(const char *name)
{
	const unsigned char *at = dlsym(RTLD_DEFAULT, name);

	for (int i = 0; at && i < 16; i++)
		printf("%02x", at[i]);
	puts("");
}

static void obey(void);

static void make_child(void)
{
	int down[2], up[2];
	pid_t pid;

	check(!pipe(down) && !pipe(up));
	fflush(stdout);
	pid = fork();
	if (!pid) {
		check(dup2(down[0], 0) == 0 && dup2(up[1], 1) == 1);
		close(down[1]);
		close(up[0]);
		obey();
		_exit(0);
	}
	close(down[0]);
	close(up[1]);
	to_child = fdopen(down[1], "w");
	from_child = fdopen(up[0], "r");
	printf("child %d\n", pid);
}

static void relay(const char *command)
{
	char line[256];

	fprintf(to_child, "%s\n", command);
	fflush(to_child);
	check(fgets(line, sizeof(line), from_child) != NULL);
	fputs(line, stdout);
}

/* Reads by read(2), a line at a time: a fork child must not find buffered commands. */
static int next(char *line, size_t room)
{
	size_t n = 0;

	while (n + 1 < room) {
		ssize_t got = read(0, line + n, 1);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return 0;
		if (line[n] == '\n')
			break;
		n++;
	}
	line[n] = 0;
	return 1;
}

static void obey(void)
{
	char line[256];

	while (next(line, sizeof(line))) {
		char *arg = strchr(line, ' ');

		arg = arg ? arg + 1 : line + strlen(line);
		if (line[0] == '@')
			relay(arg);
		else if (!strncmp(line, "run ", 4))
			run(atol(arg));
		else if (!strncmp(line, "open ", 5))
			open_plugin(arg);
		else if (!strcmp(line, "close"))
			close_plugin();
		else if (!strncmp(line, "threads ", 8))
			threads(atoi(arg));
		else if (!strcmp(line, "stop"))
			stop();
		else if (!strcmp(line, "die"))
			die();
		else if (!strcmp(line, "fork"))
			make_child();
		else if (!strncmp(line, "bytes ", 6))
			bytes(arg);
		else
			printf("what: %s\n", line);
		fflush(stdout);
	}
}

static void refuse_ptrace(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ptrace, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog filter = { sizeof(code) / sizeof(code[0]), code };

	check(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	check(!prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter));
}

int main(int argc, char **argv)
{
	if (argc > 2 && !strcmp(argv[1], "-s")) {
		refuse_ptrace();
		execvp(argv[2], argv + 2);
		return 127;
	}
	puts("ready");
	fflush(stdout);
	obey();
	return 0;
}
