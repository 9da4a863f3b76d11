/* access, the stat family by its new and old names, realpath, with redirects. */
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "path.h"

EXPORT int access(const char *path, int mode)
{
	return REDIRECTED(int, path, -1, KEEP, REAL(access)(p, mode));
}

EXPORT int faccessat(int dir, const char *path, int mode, int flags)
{
	return REDIRECTED(int, path, -1, KEEP, REAL(faccessat)(dir, p, mode, flags));
}

EXPORT int stat(const char *restrict path, struct stat *restrict st)
{
	return REDIRECTED(int, path, -1, KEEP, REAL(stat)(p, st));
}

EXPORT int stat64(const char *restrict path, struct stat64 *restrict st)
{
	return REDIRECTED(int, path, -1, KEEP, REAL(stat64)(p, st));
}

EXPORT int lstat(const char *restrict path, struct stat *restrict st)
{
	return REDIRECTED(int, path, -1, KEEP, REAL(lstat)(p, st));
}

EXPORT int lstat64(const char *restrict path, struct stat64 *restrict st)
{
	return REDIRECTED(int, path, -1, KEEP, REAL(lstat64)(p, st));
}

EXPORT int fstatat(int dir, const char *restrict path, struct stat *restrict st, int flags)
{
	return REDIRECTED(int, path, -1, KEEP, REAL(fstatat)(dir, p, st, flags));
}

EXPORT int fstatat64(int dir, const char *restrict path, struct stat64 *restrict st, int flags)
{
	return REDIRECTED(int, path, -1, KEEP, REAL(fstatat64)(dir, p, st, flags));
}

EXPORT int statx(int dir, const char *restrict path, int flags, unsigned mask,
		 struct statx *restrict st)
{
	return REDIRECTED(int, path, -1, KEEP, REAL(statx)(dir, p, flags, mask, st));
}

/* Programs built before glibc 2.33. */
int __xstat(int ver, const char *path, struct stat *st);
int __xstat64(int ver, const char *path, struct stat64 *st);
int __lxstat(int ver, const char *path, struct stat *st);
int __lxstat64(int ver, const char *path, struct stat64 *st);

EXPORT int __xstat(int ver, const char *path, struct stat *st)
{
	return REDIRECTED(int, path, -1, KEEP, REAL(__xstat)(ver, p, st));
}

EXPORT int __xstat64(int ver, const char *path, struct stat64 *st)
{
	return REDIRECTED(int, path, -1, KEEP, REAL(__xstat64)(ver, p, st));
}

EXPORT int __lxstat(int ver, const char *path, struct stat *st)
{
	return REDIRECTED(int, path, -1, KEEP, REAL(__lxstat)(ver, p, st));
}

EXPORT int __lxstat64(int ver, const char *path, struct stat64 *st)
{
	return REDIRECTED(int, path, -1, KEEP, REAL(__lxstat64)(ver, p, st));
}

/* A real path is never looked for elsewhere once it is there: the name is the answer. */
#define REALPATH(call) \
	({ \
		char buf_[SURFACE_PATH]; \
		const char *p = path; \
		int saved_ = errno; \
		char *ret_ = call; \
		p = ret_ ? NULL : surface_redirect(path, buf_, errno); \
		if (unlikely(p != NULL)) { \
			errno = saved_; \
			ret_ = call; \
		} \
		ret_; \
	})

EXPORT char *realpath(const char *restrict path, char *restrict out)
{
	return REALPATH(REAL(realpath)(p, out));
}

char *__realpath_chk(const char *path, char *out, size_t size);

EXPORT char *__realpath_chk(const char *path, char *out, size_t size)
{
	return REALPATH(REAL(__realpath_chk)(p, out, size));
}
