/*
 * A conversation that the called thread holds while it runs freely: only its beginning, until its
 * pair of sockets is there, and its end are watched call by call, since each call that is costs two
 * stops. It does not get home meanwhile: its last step before the marker is to wait for the end of its
 * stream, and we have a copy of the other end. If we die, that goes too.
 */
#include <errno.h>
#include <poll.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "keeper.h"

enum { HANG_UP_MS = 10000, LAST_WORD_MS = 20, AT_MARKER = 1, AT_PAIR = 2 };

/* The agent has made its pair of sockets, and the second of them is ours, too. */
static int takes_peer(struct kp_target *t, struct kp_thread *th)
{
	struct user_regs_struct r;
	int ends[2], process;

	if (kp_get_regs(th, &r) || r.orig_rax != SYS_socketpair || r.rax ||
	    kp_read(t, r.r10, ends, sizeof(ends)))
		return 0; /* or it is only about to: then rax is -ENOSYS */
	process = (int)syscall(SYS_pidfd_open, t->pid, 0);
	if (process < 0)
		return 0;
	kp_step();
	t->peer = (int)syscall(SYS_pidfd_getfd, process, ends[1], 0);
	close(process);
	return t->peer >= 0;
}

static int at_pair(struct kp_target *t, struct kp_thread *th)
{
	if (kp_at_marker(t, th))
		return AT_MARKER;
	return takes_peer(t, th) ? AT_PAIR : 0;
}

int kp_talk(struct kp_target *t, const struct shim_kp_call *call)
{
	int process = (int)syscall(SYS_pidfd_open, t->pid, 0), ret;

	if (process < 0)
		return errno == ENOSYS ? -ENOTCONN : -errno;
	close(process);
	ret = kp_point(t, call, at_pair);
	if (ret == AT_MARKER) {
		ret = kp_result(t);
		return ret == -EPIPE || ret >= 0 ? -ENOTCONN : ret;
	}
	if (ret < 0)
		return ret;
	t->talking = 1;
	return kp_resume(t->caller, PTRACE_CONT, 0);
}

/* All signals are blocked in it but SIGSTOP, and those of its own instructions. */
void kp_keep_talking(struct kp_target *t)
{
	struct kp_thread *th = t->caller;
	int sig;

	if (!t->talking || th->state != KP_STOPPED)
		return;
	sig = th->sig;
	th->sig = 0;
	kp_resume(th, PTRACE_CONT, sig);
}

static int stands_still(struct kp_target *t, struct kp_thread *th, long deadline)
{
	kp_step();
	if (th->state == KP_RUNNING)
		ptrace(PTRACE_INTERRUPT, th->tid, 0, 0);
	while (th->state == KP_RUNNING && kp_now_ms() < deadline)
		kp_wait(t, deadline);
	if (th->state == KP_GONE)
		return -ESRCH;
	return th->state == KP_STOPPED ? 0 : -ETIMEDOUT;
}

int kp_hang_up(struct kp_target *t)
{
	long deadline = kp_now_ms() + HANG_UP_MS;
	struct pollfd word = { .fd = t->peer, .events = POLLIN };
	struct kp_thread *th = t->caller;
	struct user_regs_struct regs;
	int err;

	/* all that it does besides is done by then, unwatched */
	if (th->state == KP_RUNNING)
		poll(&word, 1, LAST_WORD_MS);
	err = stands_still(t, th, deadline);
	t->talking = 0;
	/* whoever else has it */
	shutdown(t->peer, SHUT_RDWR);
	close(t->peer);
	if (!err)
		err = kp_get_regs(th, &regs);
	if (!err && !kp_in_service(&regs, t->frame)) {
		t->called = 0; /* it has waited for its longest time */
		err = -ETIMEDOUT;
	}
	if (err)
		return err;
	err = kp_run(t, th, deadline, kp_at_marker);
	return err < 0 ? err : 0;
}
