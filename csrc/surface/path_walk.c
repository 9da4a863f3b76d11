/*
 * Walks and mount tables: how bpftool -f finds pins. libc opens by itself what nftw and setmntent
 * are given, so that what open redirects does not reach there.
 */
#include <fcntl.h>
#include <ftw.h>
#include <mntent.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "path.h"

enum { WALKS = 16 };

static const char bpffs[] = "/sys/fs/bpf";

typedef int (*visitor)(const char *, const struct stat *, int, struct FTW *);

/* A walk below bpffs in progress: whose, and whom to tell. nftw hands nothing through. */
static struct walk {
	u32 tid; /* 0: free */
	u32 cut; /* bytes of the tree's own place */
	visitor tell;
} walks[WALKS];

static struct walk *walk_of(u32 tid)
{
	for (u32 i = 0; i < WALKS; i++)
		if (load_acquire(&walks[i].tid) == tid)
			return &walks[i];
	return NULL;
}

static struct walk *walk_new(u32 tid)
{
	for (u32 i = 0; i < WALKS; i++) {
		u32 none = 0;

		if (__atomic_compare_exchange_n(&walks[i].tid, &none, tid, false, __ATOMIC_ACQ_REL,
						__ATOMIC_RELAXED))
			return &walks[i];
	}
	return NULL;
}

/* Says the name that was asked for in the place of where it leads. */
static int visit(const char *path, const struct stat *st, int kind, struct FTW *at)
{
	struct walk *w = walk_of((u32)shim_sys0(SYS_gettid));
	struct FTW there = *at;
	char name[SURFACE_PATH];

	surface_join(name, sizeof(name), bpffs, path + w->cut, "");
	there.base += (int)(sizeof(bpffs) - 1) - (int)w->cut;
	return w->tell(name, st, kind, &there);
}

static int walk(int (*real)(const char *, visitor, int, int), const char *path, visitor tell, int fds,
		int flags)
{
	u32 tid = (u32)shim_sys0(SYS_gettid);
	struct walk *w = NULL, before;
	char buf[SURFACE_PATH];
	const char *to = surface_bpffs(path, buf);
	int ret;

	if (!to || flags & FTW_CHDIR)
		return real(path, tell, fds, flags);
	w = walk_of(tid); /* a visitor that walks */
	before = w ? *w : (struct walk){ 0 };
	if (!w)
		w = walk_new(tid);
	if (!w) {
		errno = ENOMEM;
		return -1;
	}
	w->cut = (u32)(strlen(to) - strlen(path + sizeof(bpffs) - 1));
	w->tell = tell;
	ret = real(to, visit, fds, flags);
	w->cut = before.cut;
	w->tell = before.tell;
	if (!before.tid)
		store_release(&w->tid, 0);
	return ret;
}

EXPORT int nftw(const char *path, visitor tell, int fds, int flags)
{
	return walk(REAL(nftw), path, tell, fds, flags);
}

typedef int (*visitor64)(const char *, const struct stat64 *, int, struct FTW *);

EXPORT int nftw64(const char *path, visitor64 tell, int fds, int flags)
{
	/* the two structures are one on 64-bit machines */
	return walk((int (*)(const char *, visitor, int, int))REAL(nftw64), path, (visitor)tell, fds,
		    flags);
}

/* Appends what path holds to fd; is there a line of bpffs where loaders see it? */
static bool copy_mounts(const char *path, int fd)
{
	static const char line[] = " /sys/fs/bpf bpf ";
	char buf[8192];
	size_t have = 0;
	bool found = false;
	long in = shim_sys3(SYS_open, path, O_RDONLY | O_CLOEXEC, 0), n;

	if (in < 0)
		return true;
	while ((n = shim_sys3(SYS_read, in, buf + have, sizeof(buf) - have)) > 0) {
		shim_sys3(SYS_write, fd, buf + have, n);
		have += (size_t)n;
		found |= memmem(buf, have, line, sizeof(line) - 1) != NULL;
		if (have > sizeof(line)) { /* a line may lie across two reads */
			memmove(buf, buf + have - sizeof(line), sizeof(line));
			have = sizeof(line);
		}
	}
	surface_close((int)in);
	return found;
}

/* The mount table, with bpffs in it for who may have pins. */
EXPORT FILE *setmntent(const char *path, const char *mode)
{
	static const char line[] = "bpf /sys/fs/bpf bpf rw,nosuid,nodev,noexec,relatime,mode=700 0 0\n";
	char name[SURFACE_PATH], number[24];
	FILE *file = NULL;
	long fd;

	if (surface.secure || !surface_share()[0] ||
	    (strcmp(path, "/proc/mounts") && strcmp(path, "/proc/self/mounts")))
		return REAL(setmntent)(path, mode);
	fd = shim_sys2(SYS_memfd_create, "mounts", MFD_CLOEXEC);
	if (fd < 0)
		return REAL(setmntent)(path, mode);
	if (!copy_mounts(path, (int)fd)) {
		shim_sys3(SYS_write, fd, line, sizeof(line) - 1);
		surface_join(name, sizeof(name), "/proc/self/fd/", surface_decimal(number, (u64)fd),
			     "");
		file = REAL(setmntent)(name, mode);
	}
	surface_close((int)fd);
	return file ? file : REAL(setmntent)(path, mode);
}
