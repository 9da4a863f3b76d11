/*
 * killat PID N: follows process PID with ptrace(2) and kills it with SIGKILL as it enters its
 * Nth system call from now, before that call has an effect. Prints "following" once it does.
 *
 * Exit status: 0 killed there; 3 the process ended before; 1 it cannot be followed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

static int fail(const char *what)
{
	fprintf(stderr, "killat: %s: %s\n", what, strerror(errno));
	return 1;
}

int main(int argc, char **argv)
{
	int status, entering = 1;
	long left;
	pid_t pid;

	if (argc != 3)
		return 1;
	pid = atoi(argv[1]);
	left = atol(argv[2]);
	if (ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACESYSGOOD))
		return errno == ESRCH ? 3 : fail("seize"); /* it has ended by now */
	if (ptrace(PTRACE_INTERRUPT, pid, 0, 0))
		return fail("interrupt");
	if (waitpid(pid, &status, __WALL) != pid || !WIFSTOPPED(status))
		return 3;
	printf("following\n");
	fflush(stdout);
	if (ptrace(PTRACE_SYSCALL, pid, 0, 0))
		return fail("resume");
	while (waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status)) {
		int signal = WSTOPSIG(status), event = status >> 16;

		if (signal == (SIGTRAP | 0x80)) {
			if (entering && --left <= 0) {
				kill(pid, SIGKILL);
				return 0;
			}
			entering = !entering;
			signal = 0;
		} else if (event) {
			signal = 0;
		}
		if (ptrace(PTRACE_SYSCALL, pid, 0, (void *)(long)signal))
			return errno == ESRCH ? 3 : fail("resume");
	}
	return 3;
}
