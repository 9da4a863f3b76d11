/*
 * Making, moving and removing below /sys/fs/bpf. A path is looked at before the real call, which
 * would change the machine's own bpffs: faccessat tells first whether its memory can be read.
 */
#include <fcntl.h>
#include <stdio.h>
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

EXPORT int mkdir(const char *path, mode_t mode)
{
	char buf[SURFACE_PATH];

	return REAL(mkdir)(place(path, buf), mode);
}

EXPORT int mkdirat(int dir, const char *path, mode_t mode)
{
	char buf[SURFACE_PATH];

	return REAL(mkdirat)(dir, place(path, buf), mode);
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

	return REAL(rename)(place(from, buf), place(to, other));
}

EXPORT int renameat(int dir, const char *from, int dir_to, const char *to)
{
	char buf[SURFACE_PATH], other[SURFACE_PATH];

	return REAL(renameat)(dir, place(from, buf), dir_to, place(to, other));
}

EXPORT int renameat2(int dir, const char *from, int dir_to, const char *to, unsigned flags)
{
	char buf[SURFACE_PATH], other[SURFACE_PATH];

	return REAL(renameat2)(dir, place(from, buf), dir_to, place(to, other), flags);
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

EXPORT int chdir(const char *path)
{
	char buf[SURFACE_PATH];

	return REAL(chdir)(place(path, buf));
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
