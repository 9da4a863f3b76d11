/* What this process is: its self page, locks, the library's place, one-line notes. */
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include "surface.h"

struct surface_state surface;

void *surface_real(void **slot, const char *name)
{
	void *f = load_acquire(slot);

	if (unlikely(!f)) {
		f = dlsym(RTLD_NEXT, name);
		store_release(slot, f);
	}
	return f;
}

static struct surface_self *self_page(void)
{
	struct surface_self *page = load_acquire(&surface.self), *none = NULL;
	long at;

	if (likely(page))
		return page;
	at = shim_sys6(SYS_mmap, 0, SHIM_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		       0);
	if (at < 0 && at > -4096)
		return NULL;
	page = (struct surface_self *)at;
	surface.unwiped = shim_sys3(SYS_madvise, at, SHIM_PAGE, MADV_WIPEONFORK) != 0;
	page->pid = (u32)shim_sys0(SYS_getpid);
	if (!__atomic_compare_exchange_n(&surface.self, &none, page, false, __ATOMIC_ACQ_REL,
					 __ATOMIC_ACQUIRE)) {
		shim_sys2(SYS_munmap, at, SHIM_PAGE);
		page = none;
	}
	return page;
}

struct surface_self *surface_self(void)
{
	struct surface_self *self = self_page();
	u32 pid = (u32)shim_sys0(SYS_getpid), was = 0;

	if (!self)
		return NULL;
	if (likely(load_acquire(&self->pid) == pid))
		return self;
	if (!__atomic_compare_exchange_n(&self->pid, &was, pid, false, __ATOMIC_ACQ_REL,
					 __ATOMIC_ACQUIRE))
		return was == pid ? self : NULL;
	/* a fork child: the inherited connection would keep the parent's session open */
	if (surface.started) {
		struct shim_fd_ref ref;

		if (!surface_identity(surface.conn, &ref) && ref.ino == surface.conn_ino)
			surface_close(surface.conn);
		surface_fd_internal(surface.conn, false);
	}
	return self;
}

u64 surface_lock(u32 *lock)
{
	u64 all = ~0ULL, mask = 0;
	u32 free = 0;

	shim_sys4(SYS_rt_sigprocmask, 0 /* SIG_BLOCK */, &all, &mask, 8);
	if (__atomic_compare_exchange_n(lock, &free, 1, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
		return mask;
	while (__atomic_exchange_n(lock, 2, __ATOMIC_ACQUIRE))
		shim_sys4(SYS_futex, lock, FUTEX_WAIT_PRIVATE, 2, 0);
	return mask;
}

void surface_unlock(u32 *lock, u64 mask)
{
	if (__atomic_exchange_n(lock, 0, __ATOMIC_RELEASE) == 2)
		shim_sys3(SYS_futex, lock, FUTEX_WAKE_PRIVATE, 1);
	shim_sys4(SYS_rt_sigprocmask, 2 /* SIG_SETMASK */, &mask, 0, 8);
}

void surface_note(const char *what, const char *detail)
{
	struct iovec v[5] = {
		{ "libbpf_shim: ", 13 },
		{ (void *)what, strlen(what) },
		{ ": ", 2 },
		{ (void *)detail, strlen(detail) },
		{ "\n", 1 },
	};

	shim_sys3(SYS_writev, 2, v, 5);
}

char *surface_decimal(char *buf, u64 v)
{
	char tmp[24];
	int n = 0, i = 0;

	do {
		tmp[n++] = (char)('0' + v % 10);
		v /= 10;
	} while (v);
	while (n)
		buf[i++] = tmp[--n];
	buf[i] = 0;
	return buf;
}

char *surface_join(char *dst, size_t size, const char *a, const char *b, const char *c)
{
	const char *part[3] = { a, b, c };
	size_t n = 0;

	for (int i = 0; i < 3; i++)
		for (const char *p = part[i]; *p && n + 1 < size; p++)
			dst[n++] = *p;
	dst[n] = 0;
	return dst;
}

/* One line of /proc/self/maps; true if it is the one that holds addr, its path then in out. */
static bool maps_line(char *line, u64 addr, char *out, size_t size)
{
	char *end, *path = strchr(line, '/');
	u64 lo = strtoull(line, &end, 16), hi = *end == '-' ? strtoull(end + 1, NULL, 16) : 0;

	if (addr < lo || addr >= hi || !path || strlen(path) >= size)
		return false;
	strcpy(out, path);
	return true;
}

/* The file mapped at addr, by the kernel's own name for it: LD_PRELOAD may have been relative
 * to a directory that is no longer the current one. */
static bool mapped_path(u64 addr, char *out, size_t size)
{
	char buf[8192];
	size_t have = 0;
	bool found = false;
	long fd = shim_sys3(SYS_open, "/proc/self/maps", O_RDONLY | O_CLOEXEC, 0), n;

	if (fd < 0)
		return false;
	while (!found && (n = shim_sys3(SYS_read, fd, buf + have, sizeof(buf) - 1 - have)) > 0) {
		char *line = buf, *end;

		have += (size_t)n;
		buf[have] = 0;
		while (!found && (end = strchr(line, '\n'))) {
			*end = 0;
			found = maps_line(line, addr, out, size);
			line = end + 1;
		}
		have -= (size_t)(line - buf);
		memmove(buf, line, have);
		if (have == sizeof(buf) - 1)
			have = 0; /* no path is that long */
	}
	shim_sys1(SYS_close, fd);
	return found;
}

const char *surface_home(void)
{
	static char home[SURFACE_PATH];
	static u32 known;
	char path[SURFACE_PATH], *slash;
	Dl_info info;

	if (load_acquire(&known))
		return home;
	if (!mapped_path((u64)&surface_home, path, sizeof(path))) {
		path[0] = 0;
		if (dladdr((void *)&surface_home, &info) && info.dli_fname)
			surface_join(path, sizeof(path), info.dli_fname, "", "");
	}
	slash = strrchr(path, '/');
	if (slash) {
		*slash = 0;
		strcpy(home, path);
	}
	store_release(&known, 1);
	return home;
}
