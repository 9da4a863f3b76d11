/*
 * Making, moving and removing below /sys/fs/bpf.
 *
 * The machine's own bpffs is root's, as systemd mounts it, and a call of anybody else changes nothing
 * there: so the real call comes first, which also tells whether the path can be read at all. Root's
 * paths are looked at before, and everybody's where it is left open to all, as it is by default; then
 * faccessat tells that, as it does where two paths belong together.
 */
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "path.h"

static bool readable(const char *path)
{
	return shim_sys4(SYS_faccessat, AT_FDCWD, path, F_OK, 0) != -EFAULT;
}

/* The first call decides: who is root later was root before, or is AT_SECURE. */
static bool may_change(void)
{
	static u32 known; /* 1: no, 2: yes */

	if (unlikely(!known)) {
		bool yes = !shim_sys0(SYS_geteuid) ||
			   !shim_sys4(SYS_faccessat, AT_FDCWD, "/sys/fs/bpf", W_OK, 0);

		store_release(&known, yes ? 2 : 1);
	}
	return known == 2;
}

/* path, which can be read, or where it leads. */
static const char *place(const char *path, char *buf)
{
	const char *other = surface_bpffs(path, buf);

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

/* call(p) for a path, or for where it leads (place, new_place). Evaluates to call's result. */
#define BELOW(path, place, call) \
	({ \
		char buf_[SURFACE_PATH]; \
		bool early_ = unlikely(may_change()) && readable(path); \
		const char *p = early_ ? place(path, buf_) : path; \
		int saved_ = errno, ret_ = p ? call : -1; \
		if (unlikely(ret_) && !early_ && errno != EFAULT) { \
			int real_ = errno; \
			p = place(path, buf_); \
			if (p && p != path) { \
				errno = saved_; \
				ret_ = call; \
			} else if (p) { \
				errno = real_; \
			} \
		} \
		ret_; \
	})

EXPORT int mkdir(const char *path, mode_t mode)
{
	return BELOW(path, new_place, REAL(mkdir)(p, mode));
}

EXPORT int mkdirat(int dir, const char *path, mode_t mode)
{
	return BELOW(path, new_place, REAL(mkdirat)(dir, p, mode));
}

EXPORT int symlink(const char *text, const char *path)
{
	return BELOW(path, new_place, REAL(symlink)(text, p));
}

EXPORT int symlinkat(const char *text, int dir, const char *path)
{
	return BELOW(path, new_place, REAL(symlinkat)(text, dir, p));
}

EXPORT int rmdir(const char *path)
{
	return BELOW(path, place, REAL(rmdir)(p));
}

EXPORT int unlink(const char *path)
{
	return BELOW(path, place, REAL(unlink)(p));
}

EXPORT int unlinkat(int dir, const char *path, int flags)
{
	return BELOW(path, place, REAL(unlinkat)(dir, p, flags));
}

EXPORT int remove(const char *path)
{
	return BELOW(path, place, REAL(remove)(p));
}

EXPORT int chmod(const char *path, mode_t mode)
{
	return BELOW(path, place, REAL(chmod)(p, mode));
}

EXPORT int fchmodat(int dir, const char *path, mode_t mode, int flags)
{
	return BELOW(path, place, REAL(fchmodat)(dir, p, mode, flags));
}

/* Both ends of a name that moves; false: it would cross file systems, errno is set. */
static bool places(const char **from, const char **to, char *buf, char *other)
{
	const char *source, *target;

	if (!readable(*from) || !readable(*to))
		return true;
	source = place(*from, buf);
	target = new_place(*to, other);
	if (target && (source == *from) != (target == *to)) {
		errno = EXDEV;
		return false;
	}
	*from = source;
	*to = target;
	return target;
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

/* Is "bpf" the last step into it? mkdir -p goes step by step. */
static bool steps_into_bpffs(const char *path, bool done)
{
	char cwd[sizeof("/sys/fs/bpf")];

	return !strcmp(path, "bpf") && shim_sys2(SYS_getcwd, cwd, sizeof(cwd)) > 0 &&
	       !strcmp(cwd, done ? "/sys/fs/bpf" : "/sys/fs");
}

/* The real one may be entered by whom it tells nothing: so afterwards, whatever it said. */
EXPORT int chdir(const char *path)
{
	int ret = REAL(chdir)(path), saved = errno;
	char buf[SURFACE_PATH];
	const char *to;

	if (ret && saved == EFAULT)
		return ret;
	to = surface_bpffs(steps_into_bpffs(path, !ret) ? "/sys/fs/bpf" : path, buf);
	return to ? REAL(chdir)(to) : (errno = saved, ret);
}

/* bpftool and libbpf ask whether a folder is of bpffs, cilium/ebpf where tracefs is: there the machine
 * has an empty folder of sysfs if it mounts none. */
#define STATFS_TYPE(fs) ((fs)->f_type)
/* which glibc fills in from 2.39 on, and then has a name for */
#define STATVFS_TYPE(fs) (*(u32 *)((u8 *)(fs) + offsetof(struct statvfs64, f_namemax) + sizeof(long)))
#define STATFS(name, type_of) \
	({ \
		int ret_ = REAL(name)(path, fs), saved_ = errno; \
		char buf_[SURFACE_PATH]; \
		bool fault_ = ret_ && saved_ == EFAULT, other_ = ret_ || type_of(fs) == SYSFS_MAGIC; \
		const char *to_ = fault_ ? NULL : surface_bpffs(path, buf_); \
		long type_ = to_ ? BPF_FS_MAGIC : TRACEFS_MAGIC; \
		if (!to_ && !fault_ && other_ && surface_traces(path)) \
			to_ = surface_redirect(path, buf_, ret_ ? saved_ : ENOENT); \
		if (to_) { \
			ret_ = REAL(name)(to_, fs); \
			if (!ret_ && type_of(fs)) \
				type_of(fs) = type_; \
		} else { \
			errno = saved_; \
		} \
		ret_; \
	})

EXPORT int statfs(const char *path, struct statfs *fs)
{
	return STATFS(statfs, STATFS_TYPE);
}

EXPORT int statfs64(const char *path, struct statfs64 *fs)
{
	return STATFS(statfs64, STATFS_TYPE);
}

EXPORT int statvfs(const char *path, struct statvfs *fs)
{
	return STATFS(statvfs, STATVFS_TYPE);
}

EXPORT int statvfs64(const char *path, struct statvfs64 *fs)
{
	return STATFS(statvfs64, STATVFS_TYPE);
}
