/*
 * The keeper: ptrace transactions for one backend, and cleaning up after it.
 * Descriptor 3 is the backend's SOCK_SEQPACKET; see shim_keeper.h.
 */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "keeper.h"

enum { BACKEND_FD = 3, AWAIT_MS = 500 };

static struct kp_target target;
static struct shim_kp_session session;
static long steps, die_at;

static union {
	struct shim_kp_msg head;
	char bytes[sizeof(struct shim_kp_msg) + sizeof(struct shim_kp_patch) +
		   SHIM_KEEPER_MAX_WINDOWS * sizeof(struct shim_kp_window)];
} request;

static struct {
	struct shim_kp_msg head;
	char why[256]; /* payload: words for a refusal */
} reply;

void kp_step(void)
{
	if (die_at && ++steps == die_at)
		kill(getpid(), SIGKILL);
}

static int stopped(u32 pid)
{
	return target.pid && (u32)target.pid == pid;
}

static int do_patch(const void *payload, u32 len)
{
	const struct shim_kp_patch *head = payload;

	if (len < sizeof(*head) || head->nwindows > SHIM_KEEPER_MAX_WINDOWS ||
	    len != sizeof(*head) + head->nwindows * sizeof(struct shim_kp_window))
		return -EINVAL;
	return kp_patch(&target, (const void *)(head + 1), head->nwindows);
}

static int do_inject(pid_t pid, const void *payload)
{
	static struct shim_kp_inject req;

	memcpy(&req, payload, sizeof(req));
	req.image[sizeof(req.image) - 1] = req.name[sizeof(req.name) - 1] = 0;
	req.run_dir[sizeof(req.run_dir) - 1] = 0;
	return kp_inject(&target, pid, &req, reply.why, sizeof(reply.why));
}

static int do_talk(pid_t pid, const void *payload)
{
	int ret = kp_stop(&target, pid);

	if (ret < 0) {
		strcpy(reply.why, SHIM_KP_NOT_STOPPED);
		return ret;
	}
	ret = kp_talk(&target, payload);
	if (ret < 0)
		kp_release(&target);
	return ret;
}

static int do_like(pid_t pid, const void *payload)
{
	int ret = kp_stop(&target, pid);

	if (ret < 0) {
		strcpy(reply.why, SHIM_KP_NOT_STOPPED);
		return ret;
	}
	ret = kp_like(&target, payload);
	kp_release(&target);
	return ret;
}

static int do_finish(const void *payload, u32 len)
{
	const struct shim_kp_patch *head = payload;
	int ret = target.talking ? kp_hang_up(&target) : 0;

	if (!ret && target.called)
		ret = kp_result(&target);
	if (!ret)
		ret = do_patch(payload, len);
	if (ret < 0 || !head->stay)
		kp_release(&target);
	return ret;
}

/* With a descriptor, -1: none. */
static int answer(int fd)
{
	struct iovec iov = { &reply, sizeof(reply.head) + reply.head.len };
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control = { .head = { .cmsg_len = CMSG_LEN(sizeof(int)),
				.cmsg_level = SOL_SOCKET,
				.cmsg_type = SCM_RIGHTS } };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (fd >= 0) {
		memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
		m.msg_control = &control;
		m.msg_controllen = sizeof(control);
	}
	return sendmsg(BACKEND_FD, &m, MSG_NOSIGNAL) < 0 ? -1 : 0;
}

static int serve(const struct shim_kp_msg *msg, const void *payload)
{
	s32 tid;

	switch (msg->op) {
	case SHIM_KP_SESSION:
		if (msg->len != sizeof(session))
			return -EINVAL;
		memcpy(&session, payload, sizeof(session));
		session.library[sizeof(session.library) - 1] = 0;
		return 0;
	case SHIM_KP_STOP:
		if (target.pid && !(target.held && stopped(msg->pid)))
			return -EBUSY;
		return kp_stop(&target, (pid_t)msg->pid);
	case SHIM_KP_CALL:
		if (msg->len != sizeof(struct shim_kp_call))
			return -EINVAL;
		return stopped(msg->pid) ? kp_call(&target, payload) : -ESRCH;
	case SHIM_KP_PATCH: return stopped(msg->pid) ? do_patch(payload, msg->len) : -ESRCH;
	case SHIM_KP_RELEASE: return stopped(msg->pid) ? kp_release(&target) : -ESRCH;
	case SHIM_KP_DETACH:
		if (msg->len != sizeof(struct shim_kp_detach))
			return -EINVAL;
		return kp_detach(&target, (pid_t)msg->pid, payload);
	case SHIM_KP_INJECT:
		if (msg->len != sizeof(struct shim_kp_inject))
			return -EINVAL;
		return do_inject((pid_t)msg->pid, payload);
	case SHIM_KP_EJECT:
		if (msg->len != sizeof(struct shim_kp_eject))
			return -EINVAL;
		return kp_eject(&target, (pid_t)msg->pid, payload);
	case SHIM_KP_FOLLOW:
		if (msg->len != sizeof(tid))
			return -EINVAL;
		memcpy(&tid, payload, sizeof(tid));
		return kp_follow(&target, (pid_t)msg->pid, tid);
	case SHIM_KP_AWAIT: return kp_await(&target, (pid_t)msg->pid, AWAIT_MS);
	case SHIM_KP_LET_GO: return stopped(msg->pid) ? kp_let_go(&target) : -ESRCH;
	case SHIM_KP_TALK:
		if (msg->len != sizeof(struct shim_kp_call))
			return -EINVAL;
		if (target.pid && !(target.held && stopped(msg->pid)))
			return -EBUSY;
		return do_talk((pid_t)msg->pid, payload);
	case SHIM_KP_LIKE:
		if (msg->len != sizeof(struct shim_kp_like))
			return -EINVAL;
		if (target.pid && !(target.held && stopped(msg->pid)))
			return -EBUSY;
		return do_like((pid_t)msg->pid, payload);
	case SHIM_KP_FINISH:
		if (msg->len < sizeof(struct shim_kp_patch))
			return -EINVAL;
		return stopped(msg->pid) ? do_finish(payload, msg->len) : -ESRCH;
	}
	return -EOPNOTSUPP;
}

/* 0 goes on, -1: the backend is gone. */
static int one_request(void)
{
	ssize_t n = recv(BACKEND_FD, request.bytes, sizeof(request.bytes), 0);

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return 0;
	if (n <= 0)
		return -1;
	if ((size_t)n < sizeof(request.head) || request.head.len != n - sizeof(request.head)) {
		reply.head = (struct shim_kp_msg){ .ret = -EINVAL };
	} else {
		reply.head = request.head;
		reply.why[0] = 0;
		reply.head.ret = serve(&request.head, request.bytes + sizeof(request.head));
		reply.head.len = (u32)strlen(reply.why);
	}
	return answer(reply.head.op == SHIM_KP_TALK && reply.head.ret >= 0 ? target.peer : -1);
}

/* -1: this kernel has none, and the socket must do; -2: there is no backend any more. */
static int backend_pidfd(void)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);
	int fd;

	if (getsockopt(BACKEND_FD, SOL_SOCKET, SO_PEERCRED, &cred, &len))
		return -2;
	fd = (int)syscall(SYS_pidfd_open, cred.pid, 0);
	return fd < 0 && errno != ENOSYS ? -2 : fd;
}

static int prepare_signals(void)
{
	static const int ignored[] = { SIGTERM, SIGHUP, SIGINT, SIGQUIT, SIGPIPE, SIGTSTP };
	sigset_t set;
	size_t i;

	for (i = 0; i < sizeof(ignored) / sizeof(ignored[0]); i++)
		signal(ignored[i], SIG_IGN);
	signal(SIGCHLD, SIG_DFL);
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_SETMASK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

int main(void)
{
	const char *text = getenv("LIBBPF_SHIM_KEEPER_DIE_AT");
	struct pollfd fds[3] = { { .fd = BACKEND_FD, .events = POLLIN }, { .fd = -1 }, { .fd = -1 } };
	struct signalfd_siginfo info;

	die_at = text ? atol(text) : 0;
	syscall(SYS_close_range, BACKEND_FD + 1, INT_MAX, 0);
	setsid();
	prctl(PR_SET_NAME, "bpf-keeper");
	fds[1] = (struct pollfd){ .fd = backend_pidfd(), .events = POLLIN };
	if (fds[1].fd < -1 || chdir("/"))
		return 3;
	fds[2] = (struct pollfd){ .fd = prepare_signals(), .events = POLLIN };
	for (;;) {
		if (poll(fds, 3, -1) < 0 && errno != EINTR)
			break;
		if (fds[2].revents & POLLIN) {
			while (read(fds[2].fd, &info, sizeof(info)) > 0)
				;
			kp_wait(&target, 0); /* a straggler that stops now is let go */
			kp_keep_talking(&target);
		}
		if (fds[1].revents || fds[0].revents & (POLLERR | POLLNVAL))
			break;
		if (fds[0].revents && one_request())
			break;
	}
	if (target.pid)
		kp_let_go(&target);
	if (session.session_id)
		kp_reap(&target, &session);
	return 0;
}
