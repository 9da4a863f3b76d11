/*
 * poll, ppoll, select, pselect with rings among the descriptors: their eventfds are waited on,
 * and what is reported is consumed here, since nobody reads the eventfd.
 */
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <time.h>

#include "surface.h"

enum { SMALL = 64, MOST = 65536, SPURIOUS = 1000 };

struct wait {
	struct pollfd small[SMALL];
	struct pollfd *fds; /* with eventfds in place of rings */
	nfds_t n;
	size_t bytes;
};

static long wait_get(struct wait *w, nfds_t n)
{
	long at;

	w->fds = w->small;
	w->n = n;
	w->bytes = n * sizeof(struct pollfd);
	if (n <= SMALL)
		return 0;
	if (n > MOST)
		return -EINVAL;
	at = shim_sys6(SYS_mmap, 0, (long)w->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		       -1, 0);
	if (at < 0 && at > -4096)
		return -ENOMEM;
	w->fds = (struct pollfd *)at;
	return 0;
}

static void wait_put(struct wait *w)
{
	if (w->fds != w->small)
		shim_sys2(SYS_munmap, w->fds, w->bytes);
}

static bool any_ring(const struct pollfd *fds, nfds_t n)
{
	for (nfds_t i = 0; i < n; i++) {
		u32 kind = fds[i].fd < 0 ? 0 : surface_fd_known(fds[i].fd);

		if (kind == SHIM_FD_PERF_RING || kind == SHIM_FD_MAP)
			return true;
	}
	return false;
}

/* Whether rings are looked at while these are waited for: an epoll set among them may hold some. */
static bool concerned(struct pollfd *fds, nfds_t n)
{
	if (likely(!surface.started))
		return false;
	return (surface.nwatched && n <= MOST) || any_ring(fds, n);
}

/* Puts obj's eventfd into the state that its readiness has now. */
static void settle(struct surface_obj *obj, int efd)
{
	if (obj->kind == SHIM_FD_PERF_RING ? !load_acquire(&obj->pending)
					   : !shim_ringbuf_ready(&obj->desc))
		surface_unready(obj, efd);
	else if (obj->kind == SHIM_FD_PERF_RING && !load_acquire(&obj->lit))
		surface_ready(obj, efd);
	surface_notify(obj);
}

static long substitute(struct wait *w, const struct pollfd *user)
{
	for (nfds_t i = 0; i < w->n; i++) {
		struct surface_obj *obj = user[i].fd < 0 ? NULL : surface_ring_get(user[i].fd);
		long efd;

		w->fds[i] = user[i];
		if (!obj)
			continue;
		efd = surface_watch(obj);
		if (efd >= 0) {
			w->fds[i].fd = (int)efd;
			w->fds[i].events &= (short)~(surface_is_writer(obj) ? POLLIN | POLLRDNORM
									    : POLLOUT | POLLWRNORM);
			settle(obj, (int)efd);
		}
		surface_obj_put(obj);
		if (efd < 0)
			return efd;
	}
	return 0;
}

/* Events to the caller's array; readiness reported is readiness consumed. Returns how many. */
static int report(struct wait *w, struct pollfd *user)
{
	int ready = 0;

	for (nfds_t i = 0; i < w->n; i++) {
		struct surface_obj *obj;

		user[i].revents = w->fds[i].revents;
		if (w->fds[i].fd != user[i].fd && user[i].revents & (POLLIN | POLLOUT)) {
			obj = surface_ring_get(user[i].fd);
			if (obj)
				surface_unready(obj, w->fds[i].fd);
			if (!obj)
				user[i].revents = 0;
			else if (obj->kind == SHIM_FD_PERF_RING)
				user[i].revents = __atomic_exchange_n(&obj->pending, 0,
								      __ATOMIC_ACQ_REL)
							  ? user[i].revents
							  : 0;
			else if (!shim_ringbuf_ready(&obj->desc))
				user[i].revents = 0;
			if (obj)
				surface_obj_put(obj);
		}
		ready += user[i].revents != 0;
	}
	return ready;
}

static s64 now_ns(void)
{
	struct timespec t;

	shim_sys2(SYS_clock_gettime, CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* limit in ns, < 0: none. Waits by libc's ppoll, which is a cancellation point. */
static int wait_rings(struct pollfd *user, nfds_t n, s64 limit, const sigset_t *mask)
{
	s64 end = limit < 0 ? 0 : now_ns() + limit, left = limit;
	struct wait w;
	int ready = 0;
	long err = wait_get(&w, n);

	if (err)
		return (int)surface_ret(err);
	for (u32 round = 0; round < SPURIOUS; round++) {
		struct timespec t = { left / 1000000000, left % 1000000000 };

		surface_sleep_begin();
		surface_notify_all(); /* of rings in an epoll set that is waited for */
		err = substitute(&w, user);
		ready = err ? (int)surface_ret(err)
			    : REAL(ppoll)(w.fds, n, limit < 0 ? NULL : &t, mask);
		surface_sleep_end();
		if (ready < 0)
			break;
		if (!ready && surface_notify_all())
			continue; /* came in while we were timing out: looked at once more */
		ready = report(&w, user);
		left = limit < 0 ? 0 : end - now_ns();
		if (ready || (limit >= 0 && left <= 0))
			break;
		left = left < 0 ? 0 : left;
	}
	wait_put(&w);
	return ready;
}

EXPORT int poll(struct pollfd *fds, nfds_t n, int timeout)
{
	if (likely(!concerned(fds, n)))
		return REAL(poll)(fds, n, timeout);
	return wait_rings(fds, n, timeout < 0 ? -1 : timeout * 1000000LL, NULL);
}

static s64 nanoseconds(const struct timespec *t)
{
	return t ? t->tv_sec * 1000000000LL + t->tv_nsec : -1;
}

EXPORT int ppoll(struct pollfd *fds, nfds_t n, const struct timespec *t, const sigset_t *mask)
{
	if (likely(!concerned(fds, n)))
		return REAL(ppoll)(fds, n, t, mask);
	return wait_rings(fds, n, nanoseconds(t), mask);
}

int __poll_chk(struct pollfd *fds, nfds_t n, int timeout, size_t size);
int __ppoll_chk(struct pollfd *fds, nfds_t n, const struct timespec *t, const sigset_t *mask,
		size_t size);

EXPORT int __poll_chk(struct pollfd *fds, nfds_t n, int timeout, size_t size)
{
	if (size / sizeof(*fds) < n || likely(!concerned(fds, n)))
		return REAL(__poll_chk)(fds, n, timeout, size);
	return poll(fds, n, timeout);
}

EXPORT int __ppoll_chk(struct pollfd *fds, nfds_t n, const struct timespec *t, const sigset_t *mask,
		       size_t size)
{
	if (size / sizeof(*fds) < n || likely(!concerned(fds, n)))
		return REAL(__ppoll_chk)(fds, n, t, mask, size);
	return ppoll(fds, n, t, mask);
}

static bool set_has_ring(int n, const fd_set *set)
{
	for (int fd = 0; set && fd < n && fd < FD_SETSIZE; fd++) {
		u32 kind;

		if (!FD_ISSET(fd, set))
			continue;
		kind = surface_fd_known(fd);
		if (kind == SHIM_FD_PERF_RING || kind == SHIM_FD_MAP)
			return true;
	}
	return false;
}

static bool selected(int n, const fd_set *in, const fd_set *out)
{
	if (likely(!surface.started))
		return false;
	return (surface.nwatched && n <= FD_SETSIZE) || set_has_ring(n, in) || set_has_ring(n, out);
}

static short interest(int fd, const fd_set *in, const fd_set *out, const fd_set *ex)
{
	return (short)((in && FD_ISSET(fd, in) ? POLLIN : 0) |
		       (out && FD_ISSET(fd, out) ? POLLOUT : 0) |
		       (ex && FD_ISSET(fd, ex) ? POLLPRI : 0));
}

/* select by poll: an eventfd's number may lie beyond FD_SETSIZE. */
static int select_rings(int n, fd_set *in, fd_set *out, fd_set *ex, s64 limit, const sigset_t *mask)
{
	struct pollfd fds[FD_SETSIZE];
	nfds_t used = 0;
	int ready, bits = 0;

	for (int fd = 0; fd < n && fd < FD_SETSIZE; fd++)
		if (interest(fd, in, out, ex))
			fds[used++] = (struct pollfd){ fd, interest(fd, in, out, ex), 0 };
	ready = wait_rings(fds, used, limit, mask);
	if (ready < 0)
		return ready;
	for (nfds_t i = 0; i < used; i++) {
		short got = fds[i].revents;
		int fd = fds[i].fd;

		if (got & POLLNVAL)
			return (int)surface_ret(-EBADF);
		if (in && FD_ISSET(fd, in) && !(got & (POLLIN | POLLHUP | POLLERR)))
			FD_CLR(fd, in);
		if (out && FD_ISSET(fd, out) && !(got & (POLLOUT | POLLERR)))
			FD_CLR(fd, out);
		if (ex && FD_ISSET(fd, ex) && !(got & POLLPRI))
			FD_CLR(fd, ex);
		bits += __builtin_popcount((unsigned)interest(fd, in, out, ex));
	}
	return bits;
}

EXPORT int select(int n, fd_set *in, fd_set *out, fd_set *ex, struct timeval *t)
{
	s64 limit = t ? t->tv_sec * 1000000000LL + t->tv_usec * 1000LL : -1, end, left;
	int ready;

	if (likely(!selected(n, in, out)) || (t && (t->tv_sec < 0 || t->tv_usec < 0)))
		return REAL(select)(n, in, out, ex, t);
	end = t ? now_ns() + limit : 0;
	ready = select_rings(n, in, out, ex, limit, NULL);
	if (t) { /* as Linux does, also after an error */
		left = end - now_ns();
		left = left < 0 ? 0 : left;
		t->tv_sec = left / 1000000000;
		t->tv_usec = left % 1000000000 / 1000;
	}
	return ready;
}

EXPORT int pselect(int n, fd_set *in, fd_set *out, fd_set *ex, const struct timespec *t,
		   const sigset_t *mask)
{
	if (likely(!selected(n, in, out)) || (t && (t->tv_sec < 0 || t->tv_nsec < 0)))
		return REAL(pselect)(n, in, out, ex, t, mask);
	return select_rings(n, in, out, ex, nanoseconds(t), mask);
}
