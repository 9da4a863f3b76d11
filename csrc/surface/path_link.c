/*
 * readlink of /proc/self/fd/N and reading /proc/self/fdinfo/N: descriptors of ours say what the
 * kernel's would (anon_inodefs names of kernel/bpf/syscall.c, kernel/events/core.c): bpftool and
 * others tell them by it.
 */
#include <string.h>
#include <unistd.h>

#include "surface.h"

static const char *const names[] = {
	[SHIM_FD_MAP] = "anon_inode:bpf-map",
	[SHIM_FD_PROG] = "anon_inode:bpf-prog",
	[SHIM_FD_BTF] = "anon_inode:btf",
	[SHIM_FD_LINK] = "anon_inode:bpf-link",
	[SHIM_FD_PERF_RING] = "anon_inode:[perf_event]",
	[SHIM_FD_PERF_EVENT] = "anon_inode:[perf_event]",
	[SHIM_FD_STATS] = "anon_inode:bpf-stats",
	[SHIM_FD_TOKEN] = "/bpf-token (deleted)",
};

/* The number behind a prefix that ends in '/'; -1: another path. */
static int number_behind(const char *path, const char *prefix)
{
	size_t n = strlen(prefix);
	int fd = 0;

	if (strncmp(path, prefix, n) || !path[n])
		return -1;
	for (path += n; *path >= '0' && *path <= '9' && fd < SURFACE_MAX_FD; path++)
		fd = fd * 10 + (*path - '0');
	return *path ? -1 : fd;
}

/* N of /proc/self/DIR/N and of /proc/PID/DIR/N of this process; else -1. */
static int fd_of_path(const char *path, const char *dir)
{
	char own[48], number[24];
	int fd;

	surface_join(own, sizeof(own), "/proc/self", dir, "");
	fd = number_behind(path, own);
	if (fd >= 0)
		return fd;
	surface_join(own, sizeof(own), "/proc/", surface_decimal(number, (u64)shim_sys0(SYS_getpid)),
		     dir);
	return number_behind(path, own);
}

/* After the real call went well (so the path is readable memory). */
static ssize_t answer(const char *path, char *buf, size_t size, ssize_t real)
{
	u32 kind;
	size_t n;
	int fd;

	if (real < 0 || likely(!surface.started))
		return real;
	fd = number_behind(path, "/dev/fd/");
	if (fd < 0)
		fd = fd_of_path(path, "/fd/");
	kind = fd < 0 ? 0 : surface_fd_known(fd);
	if (!kind || kind >= array_size(names))
		return real;
	n = strlen(names[kind]) < size ? strlen(names[kind]) : size;
	return shim_copy_to((u64)buf, names[kind], n) ? -1 : (ssize_t)n;
}

EXPORT ssize_t readlink(const char *restrict path, char *restrict buf, size_t size)
{
	return answer(path, buf, size, REAL(readlink)(path, buf, size));
}

EXPORT ssize_t readlinkat(int dir, const char *restrict path, char *restrict buf, size_t size)
{
	return answer(path, buf, size, REAL(readlinkat)(dir, path, buf, size));
}

ssize_t __readlink_chk(const char *path, char *buf, size_t size, size_t room);

EXPORT ssize_t __readlink_chk(const char *path, char *buf, size_t size, size_t room)
{
	return answer(path, buf, size, REAL(__readlink_chk)(path, buf, size, room));
}

const char *surface_fdinfo(const char *path, char *buf)
{
	int fd = fd_of_path(path, "/fdinfo/");
	struct shim_fd_ref ref;
	char name[32] = "/";
	u32 kind = fd < 0 ? 0 : surface_fd_known(fd);

	if (!kind || kind >= array_size(names) || surface_identity(fd, &ref))
		return NULL;
	if (rpc_simple(SHIM_OP_FDINFO, &ref, sizeof(ref), name + 1, SHIM_FDINFO_NAME) < 0)
		return NULL;
	return surface_join(buf, SURFACE_PATH, surface.dir, name, "");
}
