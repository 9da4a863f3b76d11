/*
 * Stopping all threads of a process, and letting them go.
 *
 * A thread that was asked to stop but cannot yet (a vfork parent waits uninterruptibly for
 * its child) stays on a list of stragglers: it must be let go whenever it does stop, else it
 * would stand still for ever.
 */
#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "keeper.h"

enum { SEIZE_TRIES = 3 };

static pid_t stragglers[KP_MAX_THREADS];
static int nstragglers;

long kp_now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Who traces the thread; 0: nobody. */
static int tracer_of(int proc, pid_t tid)
{
	static const char name[] = "TracerPid:";
	char buf[4096], *at;
	int fd;
	ssize_t n;

	snprintf(buf, sizeof(buf), "task/%d/status", tid);
	fd = openat(proc, buf, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -1;
	n = read(fd, buf, sizeof(buf) - 1);
	close(fd);
	if (n <= 0)
		return -1;
	buf[n] = 0;
	at = strstr(buf, name);
	return at ? atoi(at + sizeof(name) - 1) : -1;
}

/* 'Z', 'X', or another state letter of /proc/PID/task/TID/stat; 0: no such thread. */
static char thread_state(int proc, pid_t tid)
{
	char path[64], buf[512], *at;
	int fd;
	ssize_t n;

	snprintf(path, sizeof(path), "task/%d/stat", tid);
	fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	n = read(fd, buf, sizeof(buf) - 1);
	close(fd);
	if (n <= 0)
		return 0;
	buf[n] = 0;
	at = strrchr(buf, ')');
	return at && at[1] ? at[2] : 0;
}

static void stopped(struct kp_thread *th, int status)
{
	th->state = KP_STOPPED;
	th->event = WSTOPSIG(status);
	/* PTRACE_EVENT_STOP is our interrupt, or a group-stop that detaching keeps. */
	th->sig = (status >> 16) || th->event == (SIGTRAP | 0x80) ? 0 : th->event;
}

static void let_straggler_go(pid_t tid, int status)
{
	struct kp_thread th = { .tid = tid };

	stopped(&th, status);
	kp_begin_again(NULL, &th);
	kp_step();
	ptrace(PTRACE_DETACH, tid, 0, (long)th.sig);
}

static void note(struct kp_target *t, pid_t tid, int status)
{
	struct kp_thread *th = NULL;
	int i;

	if (kp_followed(tid, status))
		return;
	for (i = 0; i < t->nthreads && !th; i++)
		if (t->threads[i].tid == tid)
			th = &t->threads[i];
	if (th) {
		if (!WIFSTOPPED(status)) {
			th->state = KP_GONE;
			return;
		}
		stopped(th, status);
		return;
	}
	for (i = 0; i < nstragglers; i++) {
		if (stragglers[i] != tid)
			continue;
		if (WIFSTOPPED(status))
			let_straggler_go(tid, status);
		stragglers[i] = stragglers[--nstragglers];
		return;
	}
}

void kp_wait(struct kp_target *t, long deadline)
{
	long left = deadline - kp_now_ms();
	struct timespec ts = { left / 1000, left % 1000 * 1000000 };
	sigset_t set;
	pid_t tid;
	int status, any = 0;

	while ((tid = waitpid(-1, &status, __WALL | WNOHANG)) > 0) {
		note(t, tid, status);
		any = 1;
	}
	if (any || left <= 0)
		return;
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigtimedwait(&set, NULL, &ts);
}

/* 0; 1: it has ended, or it is a leader that ended before its threads. A tracer that has let go
 * of the process's first threads may still be at its last ones: that is -EBUSY, and so is what is
 * refused once others of the process were not. */
static int seize_one(struct kp_target *t, pid_t tid)
{
	int err, tries;

	for (tries = 0; tries < SEIZE_TRIES; tries++) {
		char state;

		kp_step();
		if (!ptrace(PTRACE_SEIZE, tid, 0, PTRACE_O_TRACESYSGOOD))
			return 0;
		err = errno;
		state = thread_state(t->proc, tid);
		if (err == ESRCH || !state || state == 'Z' || state == 'X')
			return 1;
		if (tracer_of(t->proc, tid) > 0)
			return -EBUSY;
	}
	return t->nthreads ? -EBUSY : -err;
}

static int seize(struct kp_target *t, pid_t tid)
{
	struct kp_thread *th;
	int err;

	if (t->nthreads == KP_MAX_THREADS)
		return -E2BIG;
	err = seize_one(t, tid);
	if (err)
		return err < 0 ? err : 0;
	th = &t->threads[t->nthreads++];
	memset(th, 0, sizeof(*th));
	th->tid = tid;
	th->state = KP_RUNNING;
	kp_step();
	ptrace(PTRACE_INTERRUPT, tid, 0, 0);
	return 1;
}

static int known(const struct kp_target *t, pid_t tid)
{
	int i;

	for (i = 0; i < t->nthreads; i++)
		if (t->threads[i].tid == tid && t->threads[i].state != KP_GONE)
			return 1;
	return 0;
}

/* Seizes the threads not yet known: their number, or a negative errno. */
static int seize_new(struct kp_target *t)
{
	int fd = openat(t->proc, "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC), got = 0, ret;
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;

	if (!dir) {
		if (fd >= 0)
			close(fd);
		return -ESRCH;
	}
	while ((entry = readdir(dir))) {
		pid_t tid = atoi(entry->d_name);

		if (tid <= 0 || known(t, tid))
			continue;
		ret = seize(t, tid);
		if (ret < 0) {
			got = ret;
			break;
		}
		got += ret;
	}
	closedir(dir);
	return got;
}

static int count(const struct kp_target *t, enum kp_state state)
{
	int i, n = 0;

	for (i = 0; i < t->nthreads; i++)
		n += t->threads[i].state == state;
	return n;
}

static int open_target(struct kp_target *t, pid_t pid)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d", pid);
	t->proc = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (t->proc < 0)
		return -ESRCH;
	t->pid = pid;
	t->nthreads = 0;
	t->called = t->moved = t->talking = 0;
	t->resume = 0;
	t->mem = -1;
	return 0;
}

/* By a thread that is there: the leader may have ended. */
static int open_mem(const struct kp_target *t)
{
	char path[64];
	int i, fd;

	for (i = 0; t->threads[i].state != KP_STOPPED; i++)
		;
	snprintf(path, sizeof(path), "task/%d/mem", t->threads[i].tid);
	fd = kp_open_mem(t->proc, path);
	return fd < 0 ? -errno : fd;
}

int kp_stop(struct kp_target *t, pid_t pid)
{
	long deadline = kp_now_ms() + KP_STOP_MS;
	int i, ret;

	if (pid <= 0 || pid == getpid())
		return -EINVAL;
	if (t->held && t->pid == pid)
		return count(t, KP_STOPPED);
	ret = open_target(t, pid);
	if (ret)
		return ret;
	do {
		ret = seize_new(t);
		while (count(t, KP_RUNNING) && kp_now_ms() < deadline)
			kp_wait(t, deadline);
	} while (ret > 0 && kp_now_ms() < deadline);
	if (ret >= 0 && (ret > 0 || count(t, KP_RUNNING)))
		ret = -EBUSY;
	if (!ret && !count(t, KP_STOPPED))
		ret = -ESRCH;
	if (!ret) {
		t->mem = open_mem(t);
		if (t->mem < 0)
			ret = t->mem;
	}
	for (i = 0; i < t->nthreads; i++)
		kp_begin_again(t, &t->threads[i]);
	if (ret) {
		kp_release(t);
		return ret;
	}
	return count(t, KP_STOPPED);
}

static void interrupt_running(struct kp_target *t)
{
	long deadline = kp_now_ms() + KP_RELEASE_MS;
	int i;

	for (i = 0; i < t->nthreads; i++) {
		if (t->threads[i].state != KP_RUNNING)
			continue;
		kp_step();
		ptrace(PTRACE_INTERRUPT, t->threads[i].tid, 0, 0);
	}
	/* After a failed stop they have had their time: only the others get one. */
	while (t->mem >= 0 && count(t, KP_RUNNING) && kp_now_ms() < deadline)
		kp_wait(t, deadline);
}

int kp_release(struct kp_target *t)
{
	int i;

	if (t->talking)
		kp_hang_up(t);
	if (t->held) {
		if (t->called)
			kp_uncall(t);
		t->called = 0;
		return 0;
	}
	/* A thread that was in a system call: only the kernel begins that again, or ends it with a
	 * signal's EINTR. Another one goes back by itself. */
	if (t->called && !t->moved && (s64)t->before.orig_rax >= 0)
		kp_uncall(t);
	interrupt_running(t);
	for (i = 0; i < t->nthreads; i++) {
		struct kp_thread *th = &t->threads[i];

		if (th->state == KP_RUNNING && nstragglers < KP_MAX_THREADS)
			stragglers[nstragglers++] = th->tid;
		if (th->state != KP_STOPPED)
			continue;
		kp_step();
		ptrace(PTRACE_DETACH, th->tid, 0, (long)th->sig);
	}
	if (t->mem >= 0)
		close(t->mem);
	close(t->proc);
	t->pid = 0;
	t->nthreads = 0;
	return 0;
}

int kp_resume(struct kp_thread *th, int request, int sig)
{
	kp_step();
	th->state = KP_RUNNING;
	if (ptrace(request, th->tid, 0, (long)sig)) {
		th->state = errno == ESRCH ? KP_GONE : KP_STOPPED;
		return -errno;
	}
	return 0;
}

int kp_get_regs(struct kp_thread *th, struct user_regs_struct *regs)
{
	struct iovec iov = { regs, sizeof(*regs) };

	return ptrace(PTRACE_GETREGSET, th->tid, NT_PRSTATUS, &iov) ? -errno : 0;
}

int kp_set_regs(struct kp_thread *th, const struct user_regs_struct *regs)
{
	struct iovec iov = { (void *)regs, sizeof(*regs) };

	kp_step();
	return ptrace(PTRACE_SETREGSET, th->tid, NT_PRSTATUS, &iov) ? -errno : 0;
}
