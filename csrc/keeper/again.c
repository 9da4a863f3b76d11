/*
 * Calls that a stop of ours has ended, and that would have gone on without us.
 *
 * The kernel begins most calls again that an interrupt without a signal meets. Some answer EINTR
 * (signal(7), "by stop signals"), though they have done nothing yet. Such a thread is given what
 * the kernel has for others, ERESTARTNOHAND: it then decides itself, when the thread is let go,
 * whether a handler runs (EINTR) or not (the call begins anew, and with it a timeout that it does
 * not update). So no signal is lost, whenever it comes, and nothing depends on our life. A call that
 * a stop signal has interrupted is left as it is.
 *
 * Not close(2), whose descriptor is gone, and no call of a file that is not a socket: only its
 * driver knows what EINTR means there.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "keeper.h"

enum { ERESTARTNOHAND = 514, ERESTART_RESTARTBLOCK = 516, CS_64 = 0x33 };

#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif

/* EINTR of these says that they have done nothing. socket: if their descriptor is one. */
static const struct {
	int nr, socket;
} undone[] = {
	/* fs/eventpoll.c, ipc/sem.c, kernel/signal.c, fs/aio.c, io_uring/io_uring.c */
	{ SYS_epoll_wait, 0 },
	{ SYS_epoll_pwait, 0 },
	{ SYS_epoll_pwait2, 0 },
	{ SYS_semop, 0 },
	{ SYS_semtimedop, 0 },
	{ SYS_rt_sigtimedwait, 0 },
	{ SYS_io_getevents, 0 },
	{ SYS_io_uring_enter, 0 },
	/* fs/select.c: where the timeout cannot be written */
	{ SYS_select, 0 },
	{ SYS_pselect6, 0 },
	{ SYS_ppoll, 0 },
	/* net/: sock_intr_errno(), under SO_RCVTIMEO and SO_SNDTIMEO */
	{ SYS_accept, 0 },
	{ SYS_accept4, 0 },
	{ SYS_connect, 0 },
	{ SYS_recvfrom, 0 },
	{ SYS_recvmsg, 0 },
	{ SYS_recvmmsg, 0 },
	{ SYS_sendto, 0 },
	{ SYS_sendmsg, 0 },
	{ SYS_sendmmsg, 0 },
	{ SYS_read, 1 },
	{ SYS_readv, 1 },
	{ SYS_write, 1 },
	{ SYS_writev, 1 },
};

static int is_socket(pid_t tid, int fd)
{
	char path[64], to[8];

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", tid, fd);
	return readlink(path, to, sizeof(to)) >= 7 && !memcmp(to, "socket:", 7);
}

static int nothing_done(pid_t tid, const struct user_regs_struct *regs)
{
	size_t i;

	for (i = 0; i < sizeof(undone) / sizeof(undone[0]); i++)
		if (regs->orig_rax == (u64)undone[i].nr)
			return !undone[i].socket || is_socket(tid, (int)regs->rdi);
	return 0;
}

/* The stop is, or is about to be, one that a shell or SIGSTOP has asked for. */
static int group_stop(int event)
{
	return event == SIGSTOP || event == SIGTSTP || event == SIGTTIN || event == SIGTTOU;
}

void kp_begin_again(const struct kp_target *t, struct kp_thread *th)
{
	struct user_regs_struct regs;
	int again;

	if (th->state != KP_STOPPED || kp_get_regs(th, &regs) || regs.cs != CS_64 ||
	    (s64)regs.orig_rax < 0 || group_stop(th->event))
		return;
	if ((s64)regs.rax == -EINTR)
		again = nothing_done(th->tid, &regs);
	else
		/* A sleep goes on by a call of its own, for which a filter may end the process. */
		again = (s64)regs.rax == -ERESTART_RESTARTBLOCK && t && !kp_restart_allowed(t, th->tid);
	if (!again)
		return;
	regs.rax = (u64)-ERESTARTNOHAND;
	kp_set_regs(th, &regs);
}
