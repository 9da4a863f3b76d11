/* open, openat, fopen, opendir and their many names, with redirects. */
#include <dirent.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

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

/* What bpffs says to open(2) of where, an errno; 0: nothing. Files are pins, which have no
 * content, and only bpf(2) makes them (kernel/bpf/inode.c). */
static int bpffs_refuses(const char *path, const char *where, int flags)
{
	char buf[SURFACE_PATH];
	struct stat st;
	long err;

	if (!surface_bpffs(path, buf) || flags & O_PATH)
		return 0;
	err = shim_sys2(SYS_stat, where, &st);
	if (!err && S_ISREG(st.st_mode))
		return flags & O_CREAT && flags & O_EXCL ? 0 : EIO;
	return err == -ENOENT && flags & O_CREAT ? EACCES : 0;
}

/* Of any place that a path leads to; of the files beside the library nobody reads what is written. */
static int refuses(const char *path, const char *where, int flags)
{
	const char *home = surface_home();
	size_t n = strlen(home);
	struct stat st;

	if (n && !strncmp(where, home, n) && where[n] == '/' && !(flags & O_PATH) &&
	    (flags & O_ACCMODE) != O_RDONLY)
		return flags & O_CREAT || !shim_sys2(SYS_stat, where, &st) ? EACCES : 0;
	return bpffs_refuses(path, where, flags);
}

/* Of open(2), what fopen(3)'s mode comes to. */
static int flags_of(const char *mode)
{
	return (*mode == 'r' ? 0 : O_CREAT) | (strpbrk(mode, "wa+") ? O_RDWR : O_RDONLY);
}

/* As REDIRECTED, with our own refusals. */
#define OPENED(type, path, fails, undo, mode, call) \
	REDIRECTED(type, path, fails, undo, ({ \
			   int no_ = p == path ? 0 : refuses(path, p, mode); \
			   if (no_) \
				   errno = no_; \
			   no_ ? (type)(fails) : call; \
		   }))

EXPORT int open(const char *path, int flags, ...)
{
	mode_t mode = MODE(flags);

	return OPENED(int, path, -1, surface_close, flags, REAL(open)(p, flags, mode));
}

EXPORT int open64(const char *path, int flags, ...)
{
	mode_t mode = MODE(flags);

	return OPENED(int, path, -1, surface_close, flags, REAL(open64)(p, flags, mode));
}

EXPORT int openat(int dir, const char *path, int flags, ...)
{
	mode_t mode = MODE(flags);

	return OPENED(int, path, -1, surface_close, flags, REAL(openat)(dir, p, flags, mode));
}

EXPORT int openat64(int dir, const char *path, int flags, ...)
{
	mode_t mode = MODE(flags);

	return OPENED(int, path, -1, surface_close, flags, REAL(openat64)(dir, p, flags, mode));
}

/* What the fortified headers call; no mode, so never O_CREAT. */
int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);
int __openat_2(int dir, const char *path, int flags);
int __openat64_2(int dir, const char *path, int flags);

EXPORT int __open_2(const char *path, int flags)
{
	return OPENED(int, path, -1, surface_close, flags, REAL(__open_2)(p, flags));
}

EXPORT int __open64_2(const char *path, int flags)
{
	return OPENED(int, path, -1, surface_close, flags, REAL(__open64_2)(p, flags));
}

EXPORT int __openat_2(int dir, const char *path, int flags)
{
	return OPENED(int, path, -1, surface_close, flags, REAL(__openat_2)(dir, p, flags));
}

EXPORT int __openat64_2(int dir, const char *path, int flags)
{
	return OPENED(int, path, -1, surface_close, flags, REAL(__openat64_2)(dir, p, flags));
}

EXPORT FILE *fopen(const char *path, const char *mode)
{
	return OPENED(FILE *, path, NULL, fclose, flags_of(mode), REAL(fopen)(p, mode));
}

EXPORT FILE *fopen64(const char *path, const char *mode)
{
	return OPENED(FILE *, path, NULL, fclose, flags_of(mode), REAL(fopen64)(p, mode));
}

EXPORT DIR *opendir(const char *path)
{
	return REDIRECTED(DIR *, path, NULL, closedir, REAL(opendir)(p));
}
