/*
 * Making, moving and removing below /sys/fs/bpf. A path is looked at before the real call, which
 * would change the machine's own bpffs: faccessat tells first whether its memory can be read.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "path.h"

enum { BPF_FS_MAGIC_ = 0xcafe4a11 };

/* path, or where it leads. */
static const char *place(const char *path, char *buf)
{
	const char *other;

	if (shim_sys4(SYS_faccessat, AT_FDCWD, path, F_OK, 0) == -EFAULT)
		return path;
	other = surface_bpffs(path, buf);
	return other ? other : path;
}

/* The same for a name that is to be made: bpffs takes none with a dot (bpf_lookup()). NULL: no,
 * errno is set. */
static const char *new_place(const char *path, char *buf)
{
	const char *to = place(path, buf);

	if (to == path || !strchr(strrchr(to, '/'), '.'))
		return to;
	errno = EPERM;
	return NULL;
}

/* Both ends of a name that moves; false: it would cross file systems, errno is set. */
static bool places(const char **from, const char **to, char *buf, char *other)
{
	const char *source = place(*from, buf), *target = new_place(*to, other);

	if (target && (source == *from) != (target == *to)) {
		errno = EXDEV;
		return false;
	}
	*from = source;
	*to = target;
	return target;
}

EXPORT int mkdir(const char *path, mode_t mode)
{
	char buf[SURFACE_PATH];
	const char *to = new_place(path, buf);

	return to ? REAL(mkdir)(to, mode) : -1;
}

EXPORT int mkdirat(int dir, const char *path, mode_t mode)
{
	char buf[SURFACE_PATH];
	const char *to = new_place(path, buf);

	return to ? REAL(mkdirat)(dir, to, mode) : -1;
}

EXPORT int rmdir(const char *path)
{
	char buf[SURFACE_PATH];

	return REAL(rmdir)(place(path, buf));
}

EXPORT int unlink(const char *path)
{
	char buf[SURFACE_PATH];

	return REAL(unlink)(place(path, buf));
}

EXPORT int unlinkat(int dir, const char *path, int flags)
{
	char buf[SURFACE_PATH];

	return REAL(unlinkat)(dir, place(path, buf), flags);
}

EXPORT int remove(const char *path)
{
	char buf[SURFACE_PATH];

	return REAL(remove)(place(path, buf));
}

EXPORT int rename(const char *from, const char *to)
{
	char buf[SURFACE_PATH], other[SURFACE_PATH];

	return places(&from, &to, buf, other) ? REAL(rename)(from, to) : -1;
}

EXPORT int renameat(int dir, const char *from, int dir_to, const char *to)
{
	char buf[SURFACE_PATH], other[SURFACE_PATH];

	return places(&from, &to, buf, other) ? REAL(renameat)(dir, from, dir_to, to) : -1;
}

EXPORT int renameat2(int dir, const char *from, int dir_to, const char *to, unsigned flags)
{
	char buf[SURFACE_PATH], other[SURFACE_PATH];

	return places(&from, &to, buf, other) ? REAL(renameat2)(dir, from, dir_to, to, flags) : -1;
}

EXPORT int link(const char *from, const char *to)
{
	char buf[SURFACE_PATH], other[SURFACE_PATH];

	return places(&from, &to, buf, other) ? REAL(link)(from, to) : -1;
}

EXPORT int linkat(int dir, const char *from, int dir_to, const char *to, int flags)
{
	char buf[SURFACE_PATH], other[SURFACE_PATH];

	return places(&from, &to, buf, other) ? REAL(linkat)(dir, from, dir_to, to, flags) : -1;
}

/* The text of a link is nobody's path yet. */
EXPORT int symlink(const char *text, const char *path)
{
	char buf[SURFACE_PATH];
	const char *to = new_place(path, buf);

	return to ? REAL(symlink)(text, to) : -1;
}

EXPORT int symlinkat(const char *text, int dir, const char *path)
{
	char buf[SURFACE_PATH];
	const char *to = new_place(path, buf);

	return to ? REAL(symlinkat)(text, dir, to) : -1;
}

EXPORT int chmod(const char *path, mode_t mode)
{
	char buf[SURFACE_PATH];

	return REAL(chmod)(place(path, buf), mode);
}

EXPORT int fchmodat(int dir, const char *path, mode_t mode, int flags)
{
	char buf[SURFACE_PATH];

	return REAL(fchmodat)(dir, place(path, buf), mode, flags);
}

/* mkdir -p goes to its folder step by step: the last is "bpf", from /sys/fs. */
static bool steps_into_bpffs(const char *to)
{
	char cwd[sizeof("/sys/fs")];

	return !strcmp(to, "bpf") && shim_sys2(SYS_getcwd, cwd, sizeof(cwd)) > 0 &&
	       !strcmp(cwd, "/sys/fs");
}

EXPORT int chdir(const char *path)
{
	char buf[SURFACE_PATH];
	const char *to = path;

	if (shim_sys4(SYS_faccessat, AT_FDCWD, path, F_OK, 0) != -EFAULT)
		to = place(steps_into_bpffs(path) ? "/sys/fs/bpf" : path, buf);
	return REAL(chdir)(to);
}

/* bpftool and libbpf ask whether a folder is of bpffs. */
EXPORT int statfs(const char *path, struct statfs *fs)
{
	char buf[SURFACE_PATH];
	const char *to = place(path, buf);
	int ret = REAL(statfs)(to, fs);

	if (!ret && to != path)
		fs->f_type = BPF_FS_MAGIC_;
	return ret;
}

EXPORT int statfs64(const char *path, struct statfs64 *fs)
{
	char buf[SURFACE_PATH];
	const char *to = place(path, buf);
	int ret = REAL(statfs64)(to, fs);

	if (!ret && to != path)
		fs->f_type = BPF_FS_MAGIC_;
	return ret;
}
