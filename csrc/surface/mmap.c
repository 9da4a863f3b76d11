/*
 * mmap(2) of maps and perf rings of ours. A map's file would let anybody map all of it in any way;
 * these are the rules of bpf_map_mmap() (kernel/bpf/syscall.c) and of the types' map_mmap.
 */
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include "surface.h"

enum { T_ARRAY = 2, T_RINGBUF = 27, T_USER_RINGBUF = 31, T_ARENA = 33 }; /* enum bpf_map_type */
enum { F_RDONLY_PROG = 128, F_MMAPABLE = 1024 }; /* BPF_F_* */
static const u64 WINDOW = 1ULL << 32;
enum { MAP_TYPE_BITS = 15, ENOTSUPP_ = 524 };

struct ask {
	u64 addr, len, off;
	int prot, flags, fd;
	u32 mode; /* surface_fd_mode() */
};

static bool private(const struct ask *a)
{
	return (a->flags & MAP_TYPE_BITS) == MAP_PRIVATE;
}

static long access_allowed(const struct ask *a)
{
	if ((a->mode == O_RDONLY && a->prot & PROT_WRITE && !private(a)) || a->mode == O_WRONLY)
		return -EACCES;
	return a->prot & PROT_EXEC ? -EPERM : 0; /* anonymous inodes are as on a noexec mount */
}

static u64 whole_pages(u64 len)
{
	return (len + SHIM_PAGE - 1) & ~(u64)(SHIM_PAGE - 1);
}

static struct shim_arena *arena_of(const struct shim_map_desc *d)
{
	return (struct shim_arena *)(d->base + d->state_off);
}

/* arena_get_unmapped_area(): who maps it again must do it alike. */
static long arena_allows(const struct shim_map_desc *d, const struct ask *a)
{
	u64 start = load_acquire(&arena_of(d)->start), size = arena_of(d)->end - start;
	u64 len = whole_pages(a->len);

	if (a->off)
		return -EINVAL;
	if (len > WINDOW || (start && len > size))
		return -E2BIG;
	return start && (len != size || a->addr != start) ? -EINVAL : 0;
}

static long type_allows(const struct shim_map_desc *d, const struct ask *a)
{
	bool writes = a->prot & PROT_WRITE;
	u64 len = whole_pages(a->len);

	if (d->type == T_ARRAY && !(d->map_flags & F_MMAPABLE))
		return -EINVAL;
	/* the consumer's page is its reader's, the rest its writer's */
	if (d->type == T_RINGBUF && writes && (a->off || len != SHIM_PAGE))
		return -EPERM;
	if (d->type == T_USER_RINGBUF && writes && !a->off)
		return -EPERM;
	if (d->type == T_ARENA)
		return 0;
	return a->off > d->mmap_size || len > d->mmap_size - a->off ? -EINVAL : 0;
}

static long map_allows(const struct surface_obj *obj, const struct ask *a)
{
	const struct shim_map_hdr *hdr = (void *)(obj->base + obj->size - SHIM_PAGE);
	const struct shim_map_desc *d = &obj->desc;
	long err = d->type == T_ARENA ? arena_allows(d, a) : 0;

	if (!err)
		err = access_allowed(a);
	if (err)
		return err;
	if ((d->type != T_ARRAY && d->type != T_RINGBUF && d->type != T_USER_RINGBUF &&
	     d->type != T_ARENA) ||
	    d->lock_at || d->timer_at)
		return -ENOTSUPP_;
	if (private(a) || a->mode == O_RDONLY) /* the kernel: not shared */
		return -EINVAL;
	if (a->prot & PROT_WRITE && load_acquire(&hdr->frozen))
		return -EPERM;
	if (a->prot & PROT_WRITE && d->map_flags & F_RDONLY_PROG)
		return -EACCES;
	return type_allows(d, a);
}

static long map_fd(const struct ask *a, int fd)
{
	return shim_sys6(SYS_mmap, (long)a->addr, (long)a->len, a->prot, a->flags, fd, (long)a->off);
}

/* Through a description that cannot write, so that mprotect cannot make it writable later. It holds
 * the map, as descriptors do (object/file.py). */
static long map_rdonly(const struct ask *a)
{
	char path[64], number[24];
	long fd, at;

	surface_join(path, sizeof(path), "/proc/self/fd/", surface_decimal(number, (u64)a->fd), "");
	fd = shim_sys3(SYS_open, path, O_RDONLY | O_CLOEXEC, 0);
	if (fd < 0)
		return map_fd(a, a->fd);
	at = shim_sys2(SYS_flock, fd, LOCK_SH | LOCK_NB);
	at = map_fd(a, at ? a->fd : (int)fd);
	surface_close((int)fd);
	return at;
}

static bool failed(long at)
{
	return at < 0 && at > -4096;
}

/* Room for an arena in one window of 4 GiB, since programs have the lower half of addresses: twice as
 * much holds it for certain. */
static long arena_reserve(const struct ask *a, u64 len)
{
	u64 fixed = (u64)a->flags & (MAP_FIXED | MAP_FIXED_NOREPLACE), room = fixed ? len : 2 * len;
	long at = shim_sys6(SYS_mmap, (long)a->addr, (long)room, PROT_NONE,
			    (long)(MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | fixed), -1, 0);
	u64 first = (u64)at;

	if (failed(at) || fixed)
		return at;
	if (first / WINDOW != (first + len - 1) / WINDOW)
		first = (first + WINDOW - 1) & ~(WINDOW - 1);
	if (first != (u64)at)
		shim_sys2(SYS_munmap, at, first - (u64)at);
	shim_sys2(SYS_munmap, first + len, (u64)at + room - first - len);
	return (long)first;
}

/* From now on the arena is here; -EBUSY: it is elsewhere. */
static long arena_settle(struct shim_arena *arena, u64 at, u64 len)
{
	u64 none = 0;

	if (__atomic_compare_exchange_n(&arena->start, &none, at, false, __ATOMIC_ACQ_REL,
					__ATOMIC_ACQUIRE))
		store_release(&arena->end, at + len);
	return !none || none == at ? 0 : -EBUSY;
}

/* The pages; what is asked for beyond them stays without memory. */
static long arena_map(const struct shim_map_desc *d, const struct ask *a)
{
	u64 len = whole_pages(a->len);
	struct ask pages = *a;
	long at = arena_reserve(a, len), err;

	if (failed(at))
		return at;
	pages.addr = (u64)at;
	pages.len = len < d->mmap_size ? len : d->mmap_size;
	pages.flags = (a->flags & ~MAP_FIXED_NOREPLACE) | MAP_FIXED;
	err = arena_settle(arena_of(d), (u64)at, len);
	if (!err)
		err = a->prot & PROT_WRITE ? map_fd(&pages, a->fd) : map_rdonly(&pages);
	if (failed(err))
		shim_sys2(SYS_munmap, at, len);
	return failed(err) ? err : at;
}

static long map_map(struct surface_obj *obj, const struct ask *a)
{
	long err = surface_obj_map(obj, a->fd);

	if (!err && a->len && !(a->off & (SHIM_PAGE - 1)))
		err = map_allows(obj, a);
	if (err)
		return err;
	if (obj->desc.type == T_ARENA && a->len)
		return arena_map(&obj->desc, a);
	return a->prot & PROT_WRITE ? map_fd(a, a->fd) : map_rdonly(a);
}

static long ours(const struct ask *a, u32 kind)
{
	struct surface_obj *obj = surface_obj_get(a->fd, kind);
	long ret;

	if (!obj)
		ret = -EBADF;
	else if (kind == SHIM_FD_MAP)
		ret = map_map(obj, a);
	else if (a->off)
		ret = -EINVAL;
	else
		ret = surface_perf_mmap(obj, a->addr, a->len, a->prot, a->flags, a->fd);
	if (obj)
		surface_obj_put(obj);
	return ret;
}

/* libc's, looked up beforehand: an allocator that holds its lock calls mmap, and dlsym() takes one that
 * others hold while they allocate. */
static void *next_mmap;

void surface_mmap_start(void)
{
	surface_real(&next_mmap, "mmap");
}

static void *do_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	struct ask a = { (u64)addr, len, (u64)off, prot, flags, fd, O_RDWR };
	u32 kind = fd < 0 || flags & MAP_ANONYMOUS ? SHIM_FD_NONE : surface_fd_known(fd);

	if (likely(kind != SHIM_FD_MAP && kind != SHIM_FD_PERF_RING)) {
		__typeof__(&mmap) next = (__typeof__(&mmap))load_acquire(&next_mmap);

		if (likely(next))
			return next(addr, len, prot, flags, fd, off);
		return (void *)syscall(SYS_mmap, addr, len, prot, flags, fd, off);
	}
	a.mode = surface_fd_mode(fd);
	return (void *)surface_ret(ours(&a, kind));
}

EXPORT void *mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	return do_mmap(addr, len, prot, flags, fd, off);
}

EXPORT void *mmap64(void *addr, size_t len, int prot, int flags, int fd, off64_t off)
{
	return do_mmap(addr, len, prot, flags, fd, off);
}
