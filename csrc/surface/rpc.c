/*
 * The connection to the backend: one a process, one request at a time, signals blocked.
 *
 * The descriptor stands at a high number; a process that closed it all the same (by a raw
 * system call) is connected again through the session's socket, as is a fork child.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "surface.h"

enum { SMALL = 65536, HELLO_SECONDS = 30, REPLY_SECONDS = 300, HEAD = sizeof(struct shim_msg) };
enum { MEETINGS = 16, REFUSALS = 2 }; /* backends tried; of those, shared ones that did not greet */
enum { REPLY_MAX = 1 << 28 }; /* bytes; longer is not a reply */

/* Under the rpc lock. Most requests go out in one piece with their headers, which stand before them: the
 * backend wakes once. */
static u8 head_out[SMALL] __attribute__((aligned(8))), small_in[SMALL];
static u8 *const small_out = head_out + HEAD;

void surface_close(int fd)
{
	shim_sys1(SYS_close, fd);
}

int surface_raise_fd(int fd)
{
	static const int at[] = { 1000, 500, 200, 60, 10 };

	for (u32 i = 0; i < array_size(at); i++) {
		long high = shim_sys3(SYS_fcntl, fd, F_DUPFD_CLOEXEC, at[i]);

		if (high >= 0) {
			surface_close(fd);
			return (int)high;
		}
	}
	return fd;
}

static void *big(size_t size)
{
	long at = shim_sys6(SYS_mmap, 0, (long)size, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return at < 0 && at > -4096 ? NULL : (void *)at;
}

/* Makes *buf hold need bytes, its first have bytes kept. */
static long grow(u8 **buf, size_t *size, size_t have, size_t need, const u8 *small)
{
	size_t room = *size;
	u8 *now;

	if (need <= room)
		return 0;
	if (need > 2UL * REPLY_MAX)
		return -ENOMEM;
	while (room < need)
		room *= 2;
	now = big(room);
	if (!now)
		return -ENOMEM;
	memcpy(now, *buf, have);
	if (*buf != small)
		shim_sys2(SYS_munmap, *buf, *size);
	*buf = now;
	*size = room;
	return 0;
}

void *rpc_room(struct rpc *r, size_t n)
{
	size_t at = r->out_len;

	if (n > REPLY_MAX || grow(&r->out, &r->out_size, at, at + n, small_out))
		return NULL;
	r->out_len = at + n;
	return r->out + at;
}

/* Received descriptors of one message; what does not fit is closed by the kernel. */
static void take_fds(struct rpc *r, struct msghdr *msg)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
			if (r->nfds < SHIM_MAX_FDS)
				r->fds[r->nfds++] = fd;
			else
				surface_close(fd);
		}
	}
}

static long receive(struct rpc *r, void *to, size_t len)
{
	char control[CMSG_SPACE(SHIM_MAX_FDS * sizeof(int))] __attribute__((aligned(8)));
	size_t have = 0;

	while (have < len) {
		struct iovec v = { (u8 *)to + have, len - have };
		struct msghdr msg = {
			.msg_iov = &v,
			.msg_iovlen = 1,
			.msg_control = control,
			.msg_controllen = sizeof(control),
		};
		long n = shim_sys3(SYS_recvmsg, surface.conn, &msg, MSG_CMSG_CLOEXEC);

		if (n == -EINTR)
			continue;
		if (n <= 0)
			return -EIO;
		take_fds(r, &msg);
		have += (size_t)n;
	}
	return 0;
}

static long transmit(const void *from, size_t len)
{
	size_t sent = 0;

	while (sent < len) {
		long n = shim_sys6(SYS_sendto, surface.conn, (long)((const u8 *)from + sent),
				   (long)(len - sent), MSG_NOSIGNAL, 0, 0);

		if (n == -EINTR)
			continue;
		if (n <= 0)
			return -EIO;
		sent += (size_t)n;
	}
	return 0;
}

static long read_reply(struct rpc *r, u16 op, u32 seq)
{
	for (u32 notices = 0; notices < 10000; notices++) {
		long err = receive(r, &r->reply, sizeof(r->reply));

		if (err)
			return err;
		r->in_len = r->reply.len;
		if (r->reply.magic != SHIM_WIRE_MAGIC || r->in_len > REPLY_MAX)
			return -EIO;
		if (grow(&r->in, &r->in_size, 0, r->in_len, small_in))
			return -EIO;
		err = receive(r, r->in, r->in_len);
		if (err)
			return err;
		if (r->reply.op != SHIM_OP_NOTICE)
			return r->reply.op == op && r->reply.seq == seq ? 0 : -EIO;
		shim_sys3(SYS_write, 2, r->in, r->in_len < 4096 ? r->in_len : 4096);
	}
	return -EIO;
}

static long exchange(struct rpc *r, u32 op)
{
	static u32 seq;
	struct shim_msg msg = {
		.magic = SHIM_WIRE_MAGIC,
		.op = (u16)op,
		.seq = ++seq,
		.len = (u32)r->out_len,
	};
	long err;

	if (r->out == small_out) {
		memcpy(head_out, &msg, HEAD);
		err = transmit(head_out, HEAD + r->out_len);
	} else {
		err = transmit(&msg, HEAD);
		if (!err)
			err = transmit(r->out, r->out_len);
	}
	return err ? err : read_reply(r, msg.op, msg.seq);
}

static void timeout(long seconds)
{
	struct timeval tv = { .tv_sec = seconds };

	shim_sys5(SYS_setsockopt, surface.conn, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	shim_sys5(SYS_setsockopt, surface.conn, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
}

static void *map_shared(int fd, u64 size)
{
	long at = shim_sys6(SYS_mmap, 0, (long)size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
			    fd, 0);

	return at < 0 && at > -4096 ? NULL : (void *)at;
}

/* The first welcome of this process (or of the one it was forked from) makes the session. */
static long welcome(struct rpc *r)
{
	struct shim_welcome w;
	struct shim_fd_ref ref;

	if (r->reply.ret < 0)
		return r->reply.ret;
	if (r->in_len < sizeof(w) || r->nfds < 2)
		return -EIO;
	memcpy(&w, r->in, sizeof(w));
	w.dir[sizeof(w.dir) - 1] = 0;
	surface.self->owner = w.owner;
	if (surface.started)
		return 0;
	if (w.version != SHIM_WIRE_VERSION || w.ctl_size < sizeof(struct shim_ctl))
		return -EIO;
	surface.ctl = map_shared(r->fds[0], w.ctl_size);
	surface.perf = map_shared(r->fds[1], w.perf_size);
	if (!surface.ctl || surface_identity(r->fds[0], &ref))
		return -ENOMEM;
	surface.memfd_dev = ref.dev;
	surface.perf_size = surface.perf ? w.perf_size : 0;
	surface.session_id = w.session_id;
	surface.nr_vcpus = w.nr_vcpus;
	memcpy(surface.dir, w.dir, sizeof(w.dir));
	store_release(&surface.started, 1);
	return 0;
}

static void close_fds(struct rpc *r)
{
	for (u32 i = 0; i < r->nfds; i++)
		surface_close(r->fds[i]);
	r->nfds = 0;
}

static long hello(struct rpc *r)
{
	struct shim_hello *h = rpc_room(r, sizeof(*h));
	long err;

	h->version = SHIM_WIRE_VERSION;
	h->pid = (u32)shim_sys0(SYS_getpid);
	h->tid = (u32)shim_sys0(SYS_gettid);
	h->uid = (u32)shim_sys0(SYS_geteuid);
	surface_token(r);
	timeout(HELLO_SECONDS);
	err = exchange(r, SHIM_OP_HELLO_LOADER);
	if (!err)
		err = welcome(r);
	close_fds(r);
	r->out_len = 0;
	timeout(REPLY_SECONDS);
	return err;
}

static bool connected(void)
{
	struct shim_fd_ref ref;

	return surface.self->connected && !surface_identity(surface.conn, &ref) &&
	       ref.ino == surface.conn_ino;
}

static void disconnect(void)
{
	if (connected())
		surface_close(surface.conn);
	surface_fd_internal(surface.conn, false);
	surface.self->connected = 0;
}

/* A connection in hand: greets. -EAGAIN: that backend sends us to the one that is shared. */
static long greet(struct rpc *r, long fd)
{
	struct shim_fd_ref ref;
	long err;

	surface.conn = surface_raise_fd((int)fd);
	err = surface_identity(surface.conn, &ref);
	surface.conn_ino = ref.ino;
	surface.self->connected = 1;
	surface_fd_internal(surface.conn, true);
	r->reply = (struct shim_msg){ .op = 0 };
	if (!err)
		err = hello(r);
	if (err)
		disconnect();
	return err;
}

/* The user's session if there is one, else one of our own, which others may join. A session that
 * was found and does not greet is about to end, or is not well if that happens again. */
static long start_session(struct rpc *r)
{
	u32 refused = 0;
	long fd, err = -EAGAIN;

	for (u32 tries = 0; tries < MEETINGS && err == -EAGAIN; tries++) {
		const char *share = surface_share();

		fd = share[0] ? surface_connect_shared(share) : -ENOENT;
		if (fd >= 0) {
			err = greet(r, fd);
			if (!err || err == -EKEYREJECTED)
				return err;
			err = -EAGAIN;
			if (++refused == REFUSALS)
				surface_share_leave();
			continue;
		}
		fd = spawn_backend(share);
		if (fd < 0)
			return fd;
		err = greet(r, fd);
		/* one that answers has said why (SHIM_OP_NOTICE) */
		if (err && !(r->reply.op == SHIM_OP_HELLO_LOADER && r->reply.ret < 0))
			surface_note("bpf",
				     "the backend did not start, or does not speak our protocol");
	}
	return err;
}

/* The daemon that the loader is told to use: nothing is done in its place. */
static long join_server(struct rpc *r, const char *server)
{
	long fd = surface_connect(server, "/sock"), err;

	if (fd < 0) {
		surface_note("server: nobody serves there", server);
		return -EKEYREJECTED;
	}
	err = greet(r, fd);
	if (err && r->reply.op != SHIM_OP_HELLO_LOADER)
		surface_note("server: it does not answer, or not in our protocol", server);
	return err;
}

static long connect_backend(struct rpc *r)
{
	const char *server = surface_server();
	bool first = !surface.started;
	long fd, err;

	if (surface.failed)
		return surface.failed;
	if (surface.self->connected)
		surface_fd_internal(surface.conn, false);
	if (first) {
		err = server ? join_server(r, server) : start_session(r);
	} else {
		fd = surface_connect(surface.dir, "/sock");
		err = fd < 0 ? fd : greet(r, fd);
	}
	if (err)
		surface.failed = err == -EKEYREJECTED ? -EPERM : first ? -ENOSYS : -EIO;
	return surface.failed;
}

long rpc_begin(struct rpc *r)
{
	struct surface_self *self = surface_self();
	long err = 0;

	if (!self)
		return -EPERM; /* a vfork child, or no memory for a page */
	r->mask = surface_lock(&self->rpc_lock);
	r->out = small_out;
	r->in = small_in;
	r->out_size = SMALL - HEAD;
	r->in_size = SMALL;
	r->out_len = r->in_len = 0;
	r->nfds = 0;
	if (!connected())
		err = connect_backend(r);
	if (err)
		rpc_end(r);
	return err;
}

long rpc_call(struct rpc *r, u32 op)
{
	long err = exchange(r, op);

	if (!err)
		return r->reply.ret;
	close_fds(r);
	r->in_len = 0;
	memset(&r->reply, 0, sizeof(r->reply));
	disconnect();
	if (!surface.failed)
		surface_note("bpf", "the backend is gone: requests fail with EIO from here on");
	surface.failed = -EIO;
	return -EIO;
}

long rpc_take_fd(struct rpc *r)
{
	int fd;

	if (!r->nfds)
		return -EIO;
	fd = r->fds[0];
	memmove(r->fds, r->fds + 1, --r->nfds * sizeof(int));
	if (fd < 3) {
		long up = shim_sys3(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 3);

		surface_close(fd);
		return up;
	}
	return fd;
}

void rpc_end(struct rpc *r)
{
	close_fds(r);
	if (r->out != small_out)
		shim_sys2(SYS_munmap, r->out, r->out_size);
	if (r->in != small_in)
		shim_sys2(SYS_munmap, r->in, r->in_size);
	surface_unlock(&surface.self->rpc_lock, r->mask);
}

long rpc_simple(u32 op, const void *req, size_t len, void *reply, size_t reply_len)
{
	struct rpc r;
	long ret = rpc_begin(&r);
	void *out;

	if (ret)
		return ret;
	out = rpc_room(&r, len);
	if (out && len)
		memcpy(out, req, len);
	ret = out ? rpc_call(&r, op) : -ENOMEM;
	if (ret >= 0 && reply_len) {
		if (r.in_len >= reply_len)
			memcpy(reply, r.in, reply_len);
		else
			ret = -EIO;
	}
	rpc_end(&r);
	return ret;
}
