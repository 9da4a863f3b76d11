/* The agent's end of a stream to a backend (wire.h). */
#include "state.h"
#include "wire.h"

enum {
	AF_UNIX = 1,
	SOCK_STREAM_CLOEXEC = 1 | O_CLOEXEC_,
	SOL_SOCKET = 1,
	SO_PEERCRED = 17,
	SO_RCVTIMEO = 20,
	SO_SNDTIMEO = 21,
	SCM_RIGHTS = 1,
	MSG_NOSIGNAL = 0x4000,
	MSG_CMSG_CLOEXEC = 0x40000000,
	PATIENCE_S = 10, /* longest wait for one part of a message, if the backend stands still */
	MOST_WAITS = 6, /* if it is busy with others who have come */
	BUSY_NS = 500000000,
};

struct sockaddr_un_ {
	u16 family;
	char path[108];
};

struct iovec_ {
	void *base;
	u64 len;
};

struct msghdr_ {
	void *name;
	u32 namelen, pad;
	struct iovec_ *iov;
	u64 iovlen;
	void *control;
	u64 controllen;
	u32 flags, pad2;
};

struct cmsg_fds {
	u64 len;
	s32 level, type;
	s32 fds[SHIM_MAX_FDS];
};

static long paired; /* that end of the pair, + 1; 0: there is none, -errno: it could not be made */
static u32 peer; /* who is waited for as long as it is busy; 0: nobody */

static long check_peer(long sock)
{
	struct {
		u32 pid, uid, gid;
	} cred = { 0, 0, 0 };
	u32 len = sizeof(cred);
	long ret = shim_sys5(NR_GETSOCKOPT, sock, SOL_SOCKET, SO_PEERCRED, &cred, &len);

	if (ret)
		return ret;
	peer = cred.pid;
	return cred.uid && cred.uid != (u32)shim_sys0(NR_GETEUID) ? -E_ACCES : 0;
}

static void be_patient(long sock)
{
	u64 patience[2] = { PATIENCE_S, 0 };

	shim_sys5(NR_SETSOCKOPT, sock, SOL_SOCKET, SO_RCVTIMEO, patience, sizeof(patience));
	shim_sys5(NR_SETSOCKOPT, sock, SOL_SOCKET, SO_SNDTIMEO, patience, sizeof(patience));
}

void agent_pair_begin(const char *path)
{
	s32 ends[2];

	paired = 0; /* a fork child has its parent's */
	if (agent_differs(path, SHIM_PAIR, sizeof(SHIM_PAIR)))
		return;
	paired = shim_sys4(NR_SOCKETPAIR, AF_UNIX, SOCK_STREAM_CLOEXEC, 0, ends);
	if (paired)
		return;
	shim_sys1(NR_CLOSE, ends[1]);
	be_patient(ends[0]);
	paired = ends[0] + 1;
}

long agent_pair(void)
{
	peer = 0;
	return paired > 0 ? paired - 1 : paired;
}

/* First a word to whoever watches: it need not watch what was before. */
void agent_pair_end(void)
{
	long sock = paired - 1, n;
	u8 rest[64] = { 0 };

	if (paired <= 0)
		return;
	shim_sys6(NR_SENDTO, sock, (long)rest, 1, MSG_NOSIGNAL, 0, 0);
	do
		n = shim_sys3(NR_READ, sock, rest, sizeof(rest));
	while (n > 0 || n == -E_INTR);
	shim_sys1(NR_CLOSE, sock);
	paired = 0;
}

long agent_connect(const char *path, u32 hurried)
{
	struct sockaddr_un_ addr = { .family = AF_UNIX };
	u32 len = 0;
	long sock, ret;

	agent_append(addr.path, sizeof(addr.path), &len, path);
	if (!len || len >= sizeof(addr.path))
		return -E_INVAL;
	sock = shim_sys3(NR_SOCKET, AF_UNIX, SOCK_STREAM_CLOEXEC, 0);
	if (sock < 0)
		return sock;
	be_patient(sock);
	ret = shim_sys3(NR_CONNECT, sock, &addr, 2 + len + 1);
	if (!ret)
		ret = check_peer(sock);
	if (hurried)
		peer = 0;
	if (ret) {
		shim_sys1(NR_CLOSE, sock);
		return ret;
	}
	return sock;
}

static long timed(long ret)
{
	return ret == -E_AGAIN ? -E_TIMEDOUT : ret;
}

long agent_send(long sock, const void *buf, u64 len)
{
	const u8 *at = buf;

	while (len) {
		long n = shim_sys6(NR_SENDTO, sock, (long)at, (long)len, MSG_NOSIGNAL, 0, 0);

		if (n == -E_INTR)
			continue;
		if (n <= 0)
			return n ? timed(n) : -E_PROTO;
		at += n;
		len -= (u64)n;
	}
	return 0;
}

/* What has come and was not taken yet. One conversation at a time: the lock is held. A system call of
 * a process that the keeper watches costs two stops, so as much is read at once as there is. */
static struct {
	u32 at, end; /* in buf */
	u32 nfds;
	s32 fds[2 * SHIM_MAX_FDS]; /* in the order in which they came */
	u8 buf[32768];
} in;

void agent_recv_begin(void)
{
	in.at = in.end = in.nfds = 0;
}

void agent_recv_end(void)
{
	for (u32 i = 0; i < in.nfds; i++)
		shim_sys1(NR_CLOSE, in.fds[i]);
	agent_recv_begin();
}

/* The descriptors of one message: a read ends behind the piece that some came with. */
static long take_fds(const struct msghdr_ *hdr, const struct cmsg_fds *control)
{
	u32 n = 0;
	long ret = 0;

	if (hdr->controllen > 16 && control->level == SOL_SOCKET && control->type == SCM_RIGHTS)
		n = (u32)((control->len - 16) / 4);
	for (u32 i = 0; i < n && i < SHIM_MAX_FDS; i++) {
		if (in.nfds < sizeof(in.fds) / sizeof(in.fds[0])) {
			in.fds[in.nfds++] = control->fds[i];
			continue;
		}
		shim_sys1(NR_CLOSE, control->fds[i]);
		ret = -E_PROTO;
	}
	return ret;
}

/* Waits for more. */
static long receive(long sock)
{
	struct cmsg_fds control = { 0, 0, 0, { 0 } };
	struct iovec_ iov;
	struct msghdr_ hdr = { NULL, 0, 0, &iov, 1, &control, sizeof(control), 0, 0 };
	u32 waits = 1;
	long n;

	if (in.at) { /* a part of a message, or nothing */
		for (u32 i = 0; i < in.end - in.at; i++)
			in.buf[i] = in.buf[in.at + i];
		in.end -= in.at;
		in.at = 0;
	}
	iov = (struct iovec_){ in.buf + in.end, sizeof(in.buf) - in.end };
	do
		n = shim_sys3(NR_RECVMSG, sock, &hdr, MSG_CMSG_CLOEXEC);
	while (n == -E_INTR ||
	       (n == -E_AGAIN && peer && waits++ < MOST_WAITS && shim_goes_on(peer, BUSY_NS)));
	if (n <= 0)
		return n ? timed(n) : -E_PROTO;
	in.end += (u32)n;
	return take_fds(&hdr, &control);
}

long agent_recv(long sock, void *buf, u64 len)
{
	u8 *at = buf;

	while (len) {
		u64 n = in.end - in.at < len ? in.end - in.at : len;
		long ret;

		agent_copy(at, in.buf + in.at, n);
		in.at += (u32)n;
		at += n;
		len -= n;
		ret = len ? receive(sock) : 0;
		if (ret)
			return ret;
	}
	return 0;
}

int agent_has_more(void)
{
	return in.end != in.at;
}

long agent_recv_header(long sock, struct shim_msg *msg, s32 *fds, u32 *nfds)
{
	long ret = 0;

	*nfds = 0;
	while (!ret && in.end - in.at < sizeof(*msg))
		ret = receive(sock);
	if (!ret)
		ret = agent_recv(sock, msg, sizeof(*msg));
	if (ret)
		return ret;
	if (msg->magic != SHIM_WIRE_MAGIC || msg->nfds > SHIM_MAX_FDS || msg->nfds > in.nfds)
		return -E_PROTO;
	agent_copy(fds, in.fds, msg->nfds * sizeof(fds[0]));
	in.nfds -= msg->nfds;
	for (u32 i = 0; i < in.nfds; i++)
		in.fds[i] = in.fds[i + msg->nfds];
	*nfds = msg->nfds;
	return 0;
}
