/*
 * close, dup*, fcntl, close_range, closefrom: the table follows, our own descriptors survive.
 *
 * Closing the last descriptor of a link or an event detaches it before close returns, as the
 * kernel does, and elements of a PERF_EVENT_ARRAY go with the descriptor by which they came: FLUSH
 * waits until the backend has seen the close.
 */
#include <fcntl.h>
#include <stdarg.h>
#include <unistd.h>

#include "surface.h"

enum { T_PERF_EVENT_ARRAY = 4 }; /* enum bpf_map_type */

/* Asked before it is closed. */
static bool ends_something(int fd, u32 kind)
{
	if (kind == SHIM_FD_MAP) {
		struct surface_obj *obj = surface_obj_get(fd, SHIM_FD_MAP);
		bool perf = obj && load_acquire(&obj->mapped) && obj->desc.type == T_PERF_EVENT_ARRAY;

		if (obj)
			surface_obj_put(obj);
		return perf;
	}
	return kind == SHIM_FD_LINK || kind == SHIM_FD_PERF_EVENT || kind == SHIM_FD_PERF_RING ||
	       kind == SHIM_FD_STATS;
}

static void flush(void)
{
	if (!surface.failed)
		rpc_simple(SHIM_OP_FLUSH, NULL, 0, NULL, 0);
}

EXPORT int close(int fd)
{
	u32 kind = surface_fd_known(fd);
	bool ends;
	int ret;

	if (likely(!kind) || !surface_self())
		return REAL(close)(fd);
	if (kind == SURFACE_FD_INTERNAL)
		return (int)surface_ret(-EBADF); /* to the application it does not exist */
	ends = ends_something(fd, kind);
	surface_fd_forget(fd);
	ret = REAL(close)(fd);
	if (ends) {
		int saved = errno;

		flush();
		errno = saved;
	}
	return ret;
}

long surface_close_theirs(int fd)
{
	int saved = errno;
	long ret = close(fd) ? -errno : 0;

	errno = saved;
	return ret;
}

/* The application is about to take number fd: whatever of ours is there makes room. True: something
 * ends then. */
static bool make_room(int fd)
{
	u32 kind = surface_fd_known(fd);
	bool ends;

	if (likely(!kind) || !surface_self())
		return false;
	if (kind == SURFACE_FD_INTERNAL) {
		u64 mask = surface_lock(&surface.self->rpc_lock);

		if (fd == surface.conn) {
			long to = shim_sys3(SYS_fcntl, fd, F_DUPFD_CLOEXEC, fd + 1);

			surface_fd_internal(fd, false);
			if (to >= 0) {
				surface.conn = (int)to;
				surface_fd_internal((int)to, true);
			}
		}
		surface_unlock(&surface.self->rpc_lock, mask);
	}
	ends = ends_something(fd, kind);
	surface_fd_forget(fd);
	return ends;
}

EXPORT int dup(int fd)
{
	int to = REAL(dup)(fd);

	if (to >= 0)
		surface_fd_copy(fd, to);
	return to;
}

EXPORT int dup2(int fd, int to)
{
	bool ends;
	int ret;

	if (fd == to)
		return REAL(dup2)(fd, to);
	ends = make_room(to);
	ret = REAL(dup2)(fd, to);
	if (ret >= 0)
		surface_fd_copy(fd, to);
	if (ends)
		flush();
	return ret;
}

EXPORT int dup3(int fd, int to, int flags)
{
	bool ends;
	int ret;

	if (fd == to)
		return REAL(dup3)(fd, to, flags);
	ends = make_room(to);
	ret = REAL(dup3)(fd, to, flags);
	if (ret >= 0)
		surface_fd_copy(fd, to);
	if (ends)
		flush();
	return ret;
}

EXPORT int fcntl(int fd, int cmd, ...)
{
	va_list list;
	void *arg;
	int ret;

	va_start(list, cmd);
	arg = va_arg(list, void *);
	va_end(list);
	ret = REAL(fcntl)(fd, cmd, arg);
	if (ret >= 0 && (cmd == F_DUPFD || cmd == F_DUPFD_CLOEXEC))
		surface_fd_copy(fd, ret);
	return ret;
}

EXPORT int fcntl64(int fd, int cmd, ...)
{
	va_list list;
	void *arg;
	int ret;

	va_start(list, cmd);
	arg = va_arg(list, void *);
	va_end(list);
	ret = REAL(fcntl64)(fd, cmd, arg);
	if (ret >= 0 && (cmd == F_DUPFD || cmd == F_DUPFD_CLOEXEC))
		surface_fd_copy(fd, ret);
	return ret;
}

/* Forgets what is about to be closed; true if something among it must be flushed. */
static bool forget_range(unsigned first, unsigned last)
{
	bool ends = false;

	for (unsigned fd = first; fd <= last && fd < SURFACE_MAX_FD; fd++) {
		u32 kind = surface_fd_known((int)fd);

		if (!kind || kind == SURFACE_FD_INTERNAL)
			continue;
		ends |= ends_something((int)fd, kind);
		surface_fd_forget((int)fd);
	}
	return ends;
}

EXPORT int close_range(unsigned first, unsigned last, int flags)
{
	bool ends = false;
	int ours, ret;

	if (!surface.started || first > last || flags & ~CLOSE_RANGE_UNSHARE || !surface_self())
		return REAL(close_range)(first, last, flags);
	if (!flags)
		ends = forget_range(first, last);
	for (;;) { /* around each descriptor of ours */
		ours = surface_next_internal(first, last);
		if (ours < 0 || (unsigned)ours > first) {
			ret = REAL(close_range)(first, ours < 0 ? last : (unsigned)ours - 1, flags);
			if (ret)
				return ret;
		}
		if (ours < 0 || (unsigned)ours == last)
			break;
		first = (unsigned)ours + 1;
	}
	if (ends)
		flush();
	return 0;
}

EXPORT void closefrom(int first)
{
	if (!surface.started || close_range(first < 0 ? 0 : (unsigned)first, ~0U, 0))
		REAL(closefrom)(first);
}
