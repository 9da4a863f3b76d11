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
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "keeper.h"

enum { NAP = 5000000 /* ns */, MOST_MS = 10000 };

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

/* How long the thread is waited for. left: ns that it sleeps or computes; while it waits for a CPU or a
 * disk, or its whole machine stands still, it is on its way. until: ms, when that is over too. */
struct patience {
	long left, until;
	long ran; /* ns of a CPU that it had had when it was looked at last */
};

static struct patience patience(long ms)
{
	return (struct patience){ .left = ms * 1000000, .until = kp_now_ms() + MOST_MS };
}

/* Up to room bytes of its /proc/TID/NAME, as a string. */
static const char *about(const char *name, char *text, size_t room)
{
	ssize_t n;
	int fd;

	snprintf(text, room, "/proc/%d/%s", seized, name);
	fd = open(text, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? 0 : read(fd, text, room - 1);
	if (fd >= 0)
		close(fd);
	text[n > 0 ? n : 0] = 0;
	return text;
}

/* It has been waited for by a nap, or, if it was woken, by less. Zero: for long enough. */
static int waits_on(struct patience *p, int whole)
{
	char text[512];
	long ran = strtol(about("schedstat", text, sizeof(text)), NULL, 10);
	const char *state = strrchr(about("stat", text, sizeof(text)), ')');

	if (p->ran)
		p->left -= ran - p->ran;
	p->ran = ran;
	/* where the kernel does not tell how long it ran, all of it counts */
	if (whole && (!ran || !state || !strchr("RD", state[2])))
		p->left -= NAP;
	return p->left > 0 && kp_now_ms() < p->until;
}

/* Its next stop: waitpid's status; -ETIMEDOUT; -ESRCH: it has ended. */
static int next_stop(pid_t pid, struct patience *p)
{
	struct timespec nap = { 0, NAP };
	sigset_t set;
	int status, late = 0;

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
		if (late)
			return -ETIMEDOUT;
		if (!waits_on(p, sigtimedwait(&set, NULL, &nap) < 0))
			late = 1; /* but for what has come just now */
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
	struct patience p = patience(KP_STOP_MS);
	int status;

	kp_step();
	ptrace(PTRACE_INTERRUPT, seized, 0, 0);
	status = next_stop(pid, &p);
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
	t->mem = t->proc < 0 ? -1 : kp_open_mem(t->proc, "mem");
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
	struct patience p = patience(ms);
	int status, execed = 0;

	if (followed != pid)
		return -ESRCH;
	followed = 0; /* from here on nobody else waits */
	for (;;) {
		status = next_stop(pid, &p);
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
