/*
 * fences WAY: "ready"; at a byte of stdin five deeds, then a seccomp filter that ends the process for calls
 * which it does not make itself, and three deeds each of a new thread, a child of fork() and itself;
 * "fenced STATUS": what a shell has ended with meanwhile (7). For each further byte two deeds and "again".
 *
 * WAY: prctl, seccomp (by syscall()), raw (by an instruction of its own), harmless (a filter that minds
 * nothing of the agent's).
 */
#define _GNU_SOURCE
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define IS(nr) \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1), \
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS)

static struct sock_filter code[] = {
	BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
	IS(SYS_kexec_load),
	IS(SYS_gettid),
	IS(SYS_socket),
	IS(SYS_connect),
	IS(SYS_readlink),
	IS(SYS_membarrier),
	IS(SYS_process_vm_readv),
	IS(SYS_sched_yield),
	BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
};
enum { ALL = sizeof(code) / sizeof(code[0]) };

__attribute__((noinline)) void deed(int n)
{
	__asm__ volatile("" : : "r"(n) : "memory");
}

static void deeds(int n)
{
	while (n--)
		deed(n);
}

static void *thread(void *arg)
{
	deeds(3);
	return arg;
}

static void say(const char *text)
{
	if (write(1, text, strlen(text)) < 0)
		_exit(4);
}

static long raw(long nr, long a, long b, long c)
{
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c)
			 : "rcx", "r11", "memory");
	return ret;
}

static void install(const char *way)
{
	struct sock_fprog harmless = { 3, code }, harmful = { ALL, code };
	struct sock_filter end = code[ALL - 1];
	long ret;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		_exit(5);
	/* what only asks whether there are filters changes nothing */
	if (!prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, NULL) || !syscall(SYS_seccomp, 1, 0, NULL))
		_exit(6);
	if (!strcmp(way, "prctl")) {
		ret = prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &harmful);
	} else if (!strcmp(way, "seccomp")) {
		ret = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &harmful);
	} else if (!strcmp(way, "raw")) {
		ret = raw(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, (long)&harmful);
	} else {
		code[3] = end;
		harmless.len = 4;
		ret = prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &harmless);
	}
	if (ret)
		syscall(SYS_exit_group, 7);
}

static void others(void)
{
	pthread_t t;
	pid_t child;
	int status;

	if (pthread_create(&t, NULL, thread, NULL) || pthread_join(t, NULL))
		_exit(8);
	child = fork();
	if (!child) {
		deeds(3);
		_exit(0);
	}
	if (waitpid(child, &status, 0) != child || status)
		_exit(9);
	status = system("exit 7");
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 7)
		_exit(10);
}

int main(int argc, char **argv)
{
	char c;

	say("ready\n");
	if (argc < 2 || read(0, &c, 1) != 1)
		return 3;
	deeds(5);
	install(argv[1]);
	others();
	deeds(3);
	say("fenced 7\n");
	while (read(0, &c, 1) == 1) {
		deeds(2);
		say("again\n");
	}
	return 0;
}
