/*
 * readlink of /proc/self/fd/N: descriptors of ours say what the kernel's would (anon_inodefs
 * names of kernel/bpf/syscall.c, kernel/events/core.c): bpftool and others tell them by it.
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
};

/* N of /proc/self/fd/N, /proc/PID/fd/N of this process, /dev/fd/N; else -1. */
static int fd_of_path(const char *path)
{
	char own[48], number[24];
	const char *prefixes[] = { "/proc/self/fd/", "/dev/fd/", own };
	int fd = 0;

	surface_join(own, sizeof(own), "/proc/", surface_decimal(number, (u64)shim_sys0(SYS_getpid)),
		     "/fd/");
	for (u32 i = 0; i < array_size(prefixes); i++) {
		size_t n = strlen(prefixes[i]);

		if (strncmp(path, prefixes[i], n) || !path[n])
			continue;
		for (path += n; *path >= '0' && *path <= '9' && fd < SURFACE_MAX_FD; path++)
			fd = fd * 10 + (*path - '0');
		return *path ? -1 : fd;
	}
	return -1;
}

/* After the real call went well (so the path is readable memory). */
static ssize_t answer(const char *path, char *buf, size_t size, ssize_t real)
{
	u32 kind;
	size_t n;
	int fd;

	if (real < 0 || likely(!surface.started))
		return real;
	fd = fd_of_path(path);
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
