/*
 * held LIBRARY FOLDER PROGRAM [ARG...]: executes PROGRAM with LIBRARY in LD_PRELOAD. A child of this
 * one traces it, as a debugger does, until it opens FOLDER, and leaves it there, stopped.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static int opens(pid_t pid, const char *folder)
{
	struct __ptrace_syscall_info info;
	char path[256] = "";
	struct iovec to = { path, sizeof(path) - 1 }, from = { NULL, sizeof(path) - 1 };

	if (ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof(info), &info) < 0 ||
	    info.op != PTRACE_SYSCALL_INFO_ENTRY || info.entry.nr != SYS_openat)
		return 0;
	from.iov_base = (void *)info.entry.args[1];
	/* to the end of its page, if that is the last */
	if (process_vm_readv(pid, &to, 1, &from, 1, 0) < 0) {
		from.iov_len = to.iov_len = strlen(folder) + 1;
		if (process_vm_readv(pid, &to, 1, &from, 1, 0) < 0)
			return 0;
	}
	return !strcmp(path, folder);
}

static int hold(pid_t pid, const char *folder)
{
	int status;

	while (waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status)) {
		int sig = WSTOPSIG(status);

		if (sig == (SIGTRAP | 0x80) && opens(pid, folder))
			return ptrace(PTRACE_DETACH, pid, 0, SIGSTOP) ? 1 : 0;
		if (status >> 16 || sig == (SIGTRAP | 0x80))
			sig = 0;
		if (ptrace(PTRACE_SYSCALL, pid, 0, sig))
			return 1;
	}
	return 1;
}

int main(int argc, char **argv)
{
	pid_t self = getpid();
	int pipes[2];
	char byte;

	if (argc < 4 || pipe(pipes))
		return 1;
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0); /* where there is Yama */
	if (!fork()) {
		if (ptrace(PTRACE_SEIZE, self, 0, PTRACE_O_TRACESYSGOOD) ||
		    ptrace(PTRACE_INTERRUPT, self, 0, 0) || write(pipes[1], "x", 1) != 1)
			return 1;
		close(0), close(1);
		_exit(hold(self, argv[2]));
	}
	if (read(pipes[0], &byte, 1) != 1)
		return 1;
	close(pipes[0]), close(pipes[1]);
	setenv("LD_PRELOAD", argv[1], 1);
	execv(argv[3], argv + 3);
	return 1;
}
