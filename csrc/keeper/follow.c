/*
 * Through an exec: a process that is about to become a program which will not load the library is
 * seized while it asks for that, and stands still when the new image is there, before its first
 * instruction. Until SHIM_KP_LET_GO other requests find it stopped, and leave it so.
 *
 * It is the thread that execs which is seized; with the new image it is the process's first, whose
 * number it gets.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "keeper.h"

static pid_t followed; /* the process */
static pid_t seized; /* its thread */
static int came, status_came; /* a stop of its that somebody else's wait took */

int kp_followed(pid_t tid, int status)
{
	if (!followed || (tid != followed && tid != seized))
		return 0;
	if (tid == followed)
		seized = tid;
	came = 1;
	status_came = status;
	return 1;
}

int kp_follow(const struct kp_target *t, pid_t pid, pid_t tid)
{
	if (t->pid || followed)
		return -EBUSY;
	kp_step();
	if (ptrace(PTRACE_SEIZE, tid, 0, PTRACE_O_TRACEEXEC | PTRACE_O_TRACESYSGOOD))
		return -errno;
	followed = pid;
	seized = tid;
	came = 0;
	return 0;
}

/* waitpid of the one that is traced. */
static pid_t look(pid_t pid, int *status)
{
	pid_t got = waitpid(seized, status, __WALL | WNOHANG);

	if (got >= 0 || seized == pid)
		return got;
	got = waitpid(pid, status, __WALL | WNOHANG);
	if (got > 0)
		seized = pid;
	return got;
}

/* Its next stop: waitpid's status; -ETIMEDOUT; -ESRCH: it has ended. */
static int next_stop(pid_t pid, long deadline)
{
	struct timespec nap = { 0, 5000000 };
	sigset_t set;
	int status;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	for (;;) {
		pid_t got = came ? 1 : look(pid, &status);

		if (came)
			status = status_came;
		came = 0;
		if (got < 0 || (got && !WIFSTOPPED(status)))
			return -ESRCH;
		if (got)
			return status;
		if (kp_now_ms() >= deadline)
			return -ETIMEDOUT;
		sigtimedwait(&set, NULL, &nap);
	}
}

/* What a tracer that wants none of its stops does with one. */
static void pass(int status)
{
	int sig = WSTOPSIG(status), event = status >> 16;
	int group = event == PTRACE_EVENT_STOP &&
		    (sig == SIGSTOP || sig == SIGTSTP || sig == SIGTTIN || sig == SIGTTOU);

	kp_step();
	ptrace(group ? PTRACE_LISTEN : PTRACE_CONT, seized, 0,
	       event || sig == (SIGTRAP | 0x80) ? 0L : (long)sig);
}

/* It does not exec after all. */
static int give_up(pid_t pid)
{
	int status;

	kp_step();
	ptrace(PTRACE_INTERRUPT, seized, 0, 0);
	status = next_stop(pid, kp_now_ms() + KP_STOP_MS);
	if (status != -ESRCH)
		ptrace(PTRACE_DETACH, seized, 0,
		       status < 0 || status >> 16 ? 0L : (long)WSTOPSIG(status));
	return -ETIMEDOUT;
}

static int hold(struct kp_target *t, pid_t pid)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d", pid);
	t->proc = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	t->mem = t->proc < 0 ? -1 : openat(t->proc, "mem", O_RDWR | O_CLOEXEC);
	if (t->mem < 0) {
		if (t->proc >= 0)
			close(t->proc);
		ptrace(PTRACE_DETACH, pid, 0, 0);
		return -ESRCH;
	}
	t->pid = pid;
	t->called = t->talking = 0;
	t->resume = 0;
	t->nthreads = 1;
	memset(&t->threads[0], 0, sizeof(t->threads[0]));
	t->threads[0].tid = pid;
	t->threads[0].state = KP_STOPPED;
	t->threads[0].event = SIGTRAP | 0x80;
	t->held = 1;
	return 0;
}

int kp_await(struct kp_target *t, pid_t pid, int ms)
{
	long deadline = kp_now_ms() + ms;
	int status, execed = 0;

	if (followed != pid)
		return -ESRCH;
	followed = 0; /* from here on nobody else waits */
	for (;;) {
		status = next_stop(pid, deadline);
		if (status == -ETIMEDOUT)
			return give_up(pid);
		if (status < 0)
			return status;
		if (status >> 16 == PTRACE_EVENT_EXEC) {
			execed = 1; /* the call's exit is the last that belongs to it */
			ptrace(PTRACE_SYSCALL, pid, 0, 0);
		} else if (execed && WSTOPSIG(status) == (SIGTRAP | 0x80)) {
			return hold(t, pid);
		} else {
			pass(status);
		}
	}
}

int kp_let_go(struct kp_target *t)
{
	t->held = 0;
	return kp_release(t);
}
