/* Processes: clone, fork, vfork, exec. */
#define _GNU_SOURCE
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "caller.h"

extern char **environ;

static int child_of_clone(void *arg)
{
	*(int *)arg = (int)syscall(SYS_getpid) == getpid();
	syscall(SYS_exit, 7);
	return 0;
}

static void reap(pid_t pid, int code)
{
	int status;

	CHECK(pid > 0 && waitpid(pid, &status, __WALL) == pid);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == code);
}

void t_clone(void)
{
	static char stack[65536] __attribute__((aligned(16)));
	int same = 0;
	pid_t pid;
	struct clone_args args = { .exit_signal = SIGCHLD };

	reap(clone(child_of_clone, stack + sizeof(stack), CLONE_VM | SIGCHLD, &same), 7);
	CHECK(same);
	same = 0;
	reap(clone(child_of_clone, stack + sizeof(stack), CLONE_VM | CLONE_VFORK | SIGCHLD, &same), 7);
	CHECK(same);
	same = 0;
	reap(clone(child_of_clone, stack + sizeof(stack), SIGCHLD, &same), 7);
	CHECK(!same);
	pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
	if (!pid)
		_exit(9);
	reap(pid, 9);
	pid = (pid_t)syscall(SYS_fork);
	if (!pid)
		_exit(8);
	reap(pid, 8);
	pid = vfork();
	if (!pid)
		_exit(6);
	reap(pid, 6);
}

void t_forks(void)
{
	for (int i = 0; i < 10; i++) {
		pid_t pid = fork();

		if (!pid)
			_exit(getpid() == (int)syscall(SYS_getpid) ? i : 99);
		reap(pid, i);
	}
}

void t_exec(void)
{
	char *argv[] = { "sh", "-c", "exit 5", NULL }, *none[] = { "x", NULL };
	pid_t pid;

	CHECK(execve("/nonexistent/file", none, environ) == -1 && errno == ENOENT);
	CHECK(!posix_spawn(&pid, "/bin/sh", NULL, NULL, argv, environ));
	reap(pid, 5);
	pid = vfork();
	if (!pid) {
		execve("/bin/sh", argv, environ);
		_exit(99);
	}
	reap(pid, 5);
	CHECK(WEXITSTATUS(system("exit 3")) == 3);
}
