/*
 * epoll: a ring's descriptor is stood in for by its eventfd, edge-triggered, and drained
 * only where its ring is found empty (ready.c).
 *
 * An edge per write is just the kernel's perf readiness: told once, whether or not it was read.
 * For BPF ring buffers, ready while they have data, surface_notify writes again before each sleep.
 */
#include <string.h>
#include <sys/epoll.h>

#include "surface.h"

static long ring_ctl(int epfd, int op, struct surface_obj *obj, struct epoll_event *user)
{
	struct epoll_event ev = { .events = 0 };
	long efd = surface_watch(obj), err;

	if (efd < 0)
		return efd;
	if (op != EPOLL_CTL_DEL && shim_copy_from(&ev, (u64)user, sizeof(ev)))
		return -EFAULT;
	/* the other direction is the eventfd's own, not the ring's */
	ev.events &= ~(surface_is_writer(obj) ? EPOLLIN | EPOLLRDNORM : EPOLLOUT | EPOLLWRNORM);
	ev.events |= EPOLLET;
	if (op != EPOLL_CTL_DEL && surface_is_writer(obj))
		surface_notify(obj);
	err = shim_sys4(SYS_epoll_ctl, epfd, op, efd, &ev);
	if (!err && op != EPOLL_CTL_DEL)
		surface_notify(obj);
	return err;
}

EXPORT int epoll_ctl(int epfd, int op, int fd, struct epoll_event *ev)
{
	struct surface_obj *obj = surface.started ? surface_ring_get(fd) : NULL;
	long ret;

	if (!obj)
		return REAL(epoll_ctl)(epfd, op, fd, ev);
	ret = ring_ctl(epfd, op, obj, ev);
	surface_obj_put(obj);
	return (int)surface_ret(ret);
}

/* wait(timeout) with looks around it; 'none' is what its time-out looks like when zero. */
#define WITH_LOOKS(call, call_now, forever) \
	({ \
		int n_; \
		if (forever) \
			surface_sleep_begin(); \
		surface_notify_all(); \
		n_ = call; \
		if (forever) { \
			int saved_ = errno; \
			surface_sleep_end(); \
			errno = saved_; \
			if (!n_ && surface_notify_all()) \
				n_ = call_now; \
		} \
		n_; \
	})

EXPORT int epoll_wait(int epfd, struct epoll_event *ev, int max, int timeout)
{
	if (likely(!surface.nwatched))
		return REAL(epoll_wait)(epfd, ev, max, timeout);
	return WITH_LOOKS(REAL(epoll_wait)(epfd, ev, max, timeout), REAL(epoll_wait)(epfd, ev, max, 0),
			  timeout != 0);
}

EXPORT int epoll_pwait(int epfd, struct epoll_event *ev, int max, int timeout, const sigset_t *mask)
{
	if (likely(!surface.nwatched))
		return REAL(epoll_pwait)(epfd, ev, max, timeout, mask);
	return WITH_LOOKS(REAL(epoll_pwait)(epfd, ev, max, timeout, mask),
			  REAL(epoll_pwait)(epfd, ev, max, 0, mask), timeout != 0);
}

EXPORT int epoll_pwait2(int epfd, struct epoll_event *ev, int max, const struct timespec *to,
			const sigset_t *mask)
{
	if (!REAL(epoll_pwait2)) /* glibc before 2.35 */
		return (int)surface_ret(-ENOSYS);
	if (likely(!surface.nwatched))
		return REAL(epoll_pwait2)(epfd, ev, max, to, mask);
	return WITH_LOOKS(REAL(epoll_pwait2)(epfd, ev, max, to, mask),
			  REAL(epoll_pwait)(epfd, ev, max, 0, mask), true);
}
