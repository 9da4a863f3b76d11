/* open, openat, fopen, opendir and their many names, with redirects. */
#include <dirent.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>

#include "path.h"

#define MODE(last) \
	({ \
		mode_t mode_ = 0; \
		if (flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE) { \
			va_list list_; \
			va_start(list_, last); \
			mode_ = va_arg(list_, mode_t); \
			va_end(list_); \
		} \
		mode_; \
	})

EXPORT int open(const char *path, int flags, ...)
{
	mode_t mode = MODE(flags);

	return REDIRECTED(int, path, -1, surface_close, REAL(open)(p, flags, mode));
}

EXPORT int open64(const char *path, int flags, ...)
{
	mode_t mode = MODE(flags);

	return REDIRECTED(int, path, -1, surface_close, REAL(open64)(p, flags, mode));
}

EXPORT int openat(int dir, const char *path, int flags, ...)
{
	mode_t mode = MODE(flags);

	return REDIRECTED(int, path, -1, surface_close, REAL(openat)(dir, p, flags, mode));
}

EXPORT int openat64(int dir, const char *path, int flags, ...)
{
	mode_t mode = MODE(flags);

	return REDIRECTED(int, path, -1, surface_close, REAL(openat64)(dir, p, flags, mode));
}

/* What the fortified headers call; no mode, so never O_CREAT. */
int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);
int __openat_2(int dir, const char *path, int flags);
int __openat64_2(int dir, const char *path, int flags);

EXPORT int __open_2(const char *path, int flags)
{
	return REDIRECTED(int, path, -1, surface_close, REAL(__open_2)(p, flags));
}

EXPORT int __open64_2(const char *path, int flags)
{
	return REDIRECTED(int, path, -1, surface_close, REAL(__open64_2)(p, flags));
}

EXPORT int __openat_2(int dir, const char *path, int flags)
{
	return REDIRECTED(int, path, -1, surface_close, REAL(__openat_2)(dir, p, flags));
}

EXPORT int __openat64_2(int dir, const char *path, int flags)
{
	return REDIRECTED(int, path, -1, surface_close, REAL(__openat64_2)(dir, p, flags));
}

EXPORT FILE *fopen(const char *path, const char *mode)
{
	return REDIRECTED(FILE *, path, NULL, fclose, REAL(fopen)(p, mode));
}

EXPORT FILE *fopen64(const char *path, const char *mode)
{
	return REDIRECTED(FILE *, path, NULL, fclose, REAL(fopen64)(p, mode));
}

EXPORT DIR *opendir(const char *path)
{
	return REDIRECTED(DIR *, path, NULL, closedir, REAL(opendir)(p));
}
