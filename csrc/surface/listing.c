/*
 * readdir of /proc/self/fd: descriptors of ours that an application cannot close are not there to be
 * counted. bpftool counts them before its first bpf(2), and after.
 */
#include <dirent.h>
#include <string.h>

#include "surface.h"

/* The folder of this process's descriptors, by whatever path. */
static bool is_descriptors(DIR *dir)
{
	char own[48], path[64], number[24];
	u64 pid = (u64)shim_sys0(SYS_getpid);
	size_t len;
	long n;

	surface_join(own, sizeof(own), "/proc/self/fd/", surface_decimal(number, (u64)dirfd(dir)), "");
	n = shim_sys3(SYS_readlink, own, path, sizeof(path) - 1);
	surface_join(own, sizeof(own), "/proc/", surface_decimal(number, pid), "/");
	len = strlen(own);
	return n > 3 && (size_t)n > len && !memcmp(path, own, len) && !memcmp(path + n - 3, "/fd", 3);
}

static bool hidden(DIR *dir, const char *name)
{
	int fd = 0;

	if (likely(!surface.started) || !surface.self || !surface.self->connected)
		return false;
	for (; *name >= '0' && *name <= '9' && fd < SURFACE_MAX_FD; name++)
		fd = fd * 10 + (*name - '0');
	return !*name && surface_fd_known(fd) == SURFACE_FD_INTERNAL && is_descriptors(dir);
}

EXPORT struct dirent *readdir(DIR *dir)
{
	struct dirent *at;

	do
		at = REAL(readdir)(dir);
	while (at && hidden(dir, at->d_name));
	return at;
}

EXPORT struct dirent64 *readdir64(DIR *dir)
{
	struct dirent64 *at;

	do
		at = REAL(readdir64)(dir);
	while (at && hidden(dir, at->d_name));
	return at;
}
