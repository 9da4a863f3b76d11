/*
 * Descriptors: what each number of ours is, and the maps and rings behind them.
 *
 * The table is a cache. An entry holds only while fstat gives the same file; whatever is not in
 * it and could be ours (a memfd, a socket) is asked of the backend once, and the answer kept.
 * Entries are plain words, changed without a lock: a race on one descriptor number is a race
 * of the application's with itself, and fstat decides.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "fdtable.h"

u32 surface_changes;
struct surface_tables *surface_tables;
static u32 nr_objs; /* high-water mark */

/* A descriptor's entry; NULL: out of range, or there is no table yet. */
static struct surface_fd *entry_of(int fd)
{
	struct surface_tables *t = load_acquire(&surface_tables);

	return t && fd >= 0 && fd < SURFACE_MAX_FD ? &t->fd[fd] : NULL;
}

/* The same, with a table if there is memory for one. */
static struct surface_fd *entry_make(int fd)
{
	struct surface_tables *none = NULL;
	long at;

	if (fd >= 0 && fd < SURFACE_MAX_FD && !load_acquire(&surface_tables)) {
		at = shim_sys6(SYS_mmap, 0, sizeof(*surface_tables), PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (at < 0 && at > -4096)
			return NULL;
		if (!__atomic_compare_exchange_n(&surface_tables, &none, (struct surface_tables *)at,
						 false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
			shim_sys2(SYS_munmap, at, sizeof(*surface_tables));
	}
	return entry_of(fd);
}

static u32 kind_of(const struct surface_fd *e)
{
	return e ? load_acquire(&e->kind) : (u32)SHIM_FD_NONE;
}

long surface_identity(int fd, struct shim_fd_ref *ref)
{
	struct stat st;
	long err = shim_sys2(SYS_fstat, fd, &st);

	ref->fd = fd;
	ref->mode = 0;
	ref->dev = err ? 0 : st.st_dev;
	ref->ino = err ? 0 : st.st_ino;
	return err;
}

u32 surface_fd_mode(int fd)
{
	long flags = shim_sys3(SYS_fcntl, fd, F_GETFL, 0);

	return flags < 0 ? O_RDWR : (u32)flags & O_ACCMODE;
}

u32 surface_obj_index(const struct surface_obj *obj)
{
	return (u32)(obj - surface_tables->objs);
}

struct surface_obj *surface_obj_hold(u32 index)
{
	struct surface_obj *obj = &surface_tables->objs[index];
	u32 refs = load_acquire(&obj->refs);

	while (refs)
		if (__atomic_compare_exchange_n(&obj->refs, &refs, refs + 1, false, __ATOMIC_ACQ_REL,
						__ATOMIC_ACQUIRE))
			return obj;
	return NULL;
}

/* Of an object that nothing refers to. Where a thread is in the middle of it and does not go on, all
 * of it stays as it is: obj_find() asks again. The lock is held. */
static bool obj_leave(struct surface_obj *obj, bool patient)
{
	surface_unwatch(obj);
	if (obj->base && !surface_fast_wait(obj, patient))
		return false;
	if (obj->base)
		shim_sys2(SYS_munmap, obj->base, obj->size);
	obj->base = 0;
	obj->mapped = 0;
	obj->ino = 0;
	if (obj->kind == SHIM_FD_PERF_RING)
		__atomic_sub_fetch(&surface.nrings, 1, __ATOMIC_RELAXED);
	return true;
}

static void obj_free(struct surface_obj *obj)
{
	u64 mask = surface_lock(&surface.self->table_lock);

	if (!load_acquire(&obj->refs) && obj->ino)
		obj_leave(obj, true);
	surface_unlock(&surface.self->table_lock, mask);
}

void surface_obj_put(struct surface_obj *obj)
{
	if (__atomic_sub_fetch(&obj->refs, 1, __ATOMIC_ACQ_REL) == 0)
		obj_free(obj);
}

/* The object of (dev, ino), made if it is new; one more reference. NULL: no room. */
static struct surface_obj *obj_find(u64 dev, u64 ino, u32 kind)
{
	struct surface_obj *found = NULL, *spare = NULL;
	u64 mask;

	if (!entry_make(0))
		return NULL;
	mask = surface_lock(&surface.self->table_lock);

	for (u32 i = 0; i < nr_objs && !found; i++) {
		struct surface_obj *obj = &surface_tables->objs[i];

		if (!load_acquire(&obj->refs)) {
			if (!spare && (!obj->ino || obj_leave(obj, false)))
				spare = obj;
		} else if (obj->ino == ino && obj->dev == dev) {
			found = surface_obj_hold(i);
		}
	}
	if (!found && !spare && nr_objs < SURFACE_MAX_OBJS)
		spare = &surface_tables->objs[nr_objs++];
	if (!found && spare) {
		memset(spare, 0, sizeof(*spare));
		spare->dev = dev;
		spare->ino = ino;
		spare->kind = kind;
		if (kind == SHIM_FD_PERF_RING)
			__atomic_add_fetch(&surface.nrings, 1, __ATOMIC_RELAXED);
		store_release(&spare->refs, 1);
		found = spare;
	}
	surface_unlock(&surface.self->table_lock, mask);
	return found;
}

/* Another object for an entry, or none. What forgets one takes it out first and the belief next:
 * surface_fd_believe(). */
static void entry_refer(struct surface_fd *e, u32 obj)
{
	u32 was = __atomic_exchange_n(&e->obj, obj, __ATOMIC_SEQ_CST);

	__atomic_exchange_n(&e->belief, 0, __ATOMIC_SEQ_CST);
	if (was)
		surface_obj_put(&surface_tables->objs[was - 1]);
}

void surface_fd_forget(int fd)
{
	struct surface_fd *e = entry_of(fd);

	if (!e)
		return;
	store_release(&e->kind, 0);
	entry_refer(e, 0);
}

static void entry_set(int fd, const struct shim_fd_ref *ref, u32 kind)
{
	struct surface_fd *e = entry_make(fd);
	struct surface_obj *obj = NULL;

	if (!e)
		return;
	/* not believed: ref may be of a file that has given up the number by now */
	surface_fd_forget(fd);
	if (kind == SHIM_FD_MAP || kind == SHIM_FD_PERF_RING)
		obj = obj_find(ref->dev, ref->ino, kind);
	e->dev = ref->dev;
	e->ino = ref->ino;
	entry_refer(e, obj ? surface_obj_index(obj) + 1 : 0);
	store_release(&e->kind, kind);
}

void surface_fd_install(int fd, u32 kind)
{
	struct shim_fd_ref ref;

	if (fd >= 0 && fd < SURFACE_MAX_FD && !surface_identity(fd, &ref))
		entry_set(fd, &ref, kind);
}

void surface_fd_internal(int fd, bool on)
{
	struct surface_fd *e = on ? entry_make(fd) : entry_of(fd);

	if (!e)
		return;
	store_release(&e->belief, 0);
	store_release(&e->kind, on ? SURFACE_FD_INTERNAL : 0);
}

int surface_next_internal(unsigned first, unsigned last)
{
	unsigned stop = last < SURFACE_MAX_FD - 1 ? last : SURFACE_MAX_FD - 1;
	int lowest = -1;

	/* few: the connection and the eventfds; found without walking the table */
	for (u32 i = 0; i < nr_objs; i++) {
		int fd = load_acquire(&surface_tables->objs[i].efd) - 1;

		if (fd >= 0 && (unsigned)fd >= first && (unsigned)fd <= stop &&
		    (lowest < 0 || fd < lowest))
			lowest = fd;
	}
	if (surface.self && surface.self->connected && (unsigned)surface.conn >= first &&
	    (unsigned)surface.conn <= stop && (lowest < 0 || surface.conn < lowest))
		lowest = surface.conn;
	return lowest;
}

u32 surface_fd_known(int fd)
{
	const struct surface_fd *e = entry_of(fd);
	struct shim_fd_ref ref;
	u32 kind = kind_of(e);

	if (likely(!kind) || kind == SURFACE_FD_INTERNAL)
		return kind;
	if (surface_identity(fd, &ref) || ref.ino != e->ino || ref.dev != e->dev) {
		if (surface_self())
			surface_fd_forget(fd);
		return SHIM_FD_NONE;
	}
	return kind == SURFACE_FD_FOREIGN ? SHIM_FD_NONE : kind;
}

/* Could this file be one of the backend's: a memfd, or a socket? */
static bool candidate(int fd, struct shim_fd_ref *ref)
{
	struct stat st;

	if (shim_sys2(SYS_fstat, fd, &st))
		return false;
	ref->fd = fd;
	ref->mode = 0;
	ref->dev = st.st_dev;
	ref->ino = st.st_ino;
	return S_ISSOCK(st.st_mode) || (S_ISREG(st.st_mode) && st.st_dev == surface.memfd_dev);
}

u32 surface_fd_kind(int fd)
{
	u32 kind = surface_fd_known(fd);
	struct shim_fd_info info;
	struct shim_fd_ref ref;

	if (kind || fd < 0 || !surface.started)
		return kind == SURFACE_FD_INTERNAL ? SHIM_FD_NONE : kind;
	if (kind_of(entry_of(fd)) == SURFACE_FD_FOREIGN)
		return SHIM_FD_NONE;
	if (!candidate(fd, &ref))
		return SHIM_FD_NONE;
	if (rpc_simple(SHIM_OP_FD_INFO, &ref, sizeof(ref), &info, sizeof(info)) < 0)
		return SHIM_FD_NONE;
	if (fd < SURFACE_MAX_FD)
		entry_set(fd, &ref, info.kind ? info.kind : SURFACE_FD_FOREIGN);
	return info.kind;
}

void surface_fd_copy(int from, int to)
{
	struct shim_fd_ref ref;
	u32 kind = surface_fd_known(from);

	if (kind && kind != SURFACE_FD_INTERNAL && to >= 0 && to < SURFACE_MAX_FD &&
	    !surface_identity(to, &ref))
		entry_set(to, &ref, kind);
}

struct surface_obj *surface_obj_get(int fd, u32 kind)
{
	enum { TRIES = 8 };
	struct surface_obj *obj;
	struct shim_fd_ref ref;
	const struct surface_fd *e;
	u32 index;

	/* a thread that has found another file at this number, before, may forget the entry meanwhile */
	for (int i = 0; i < TRIES; i++) {
		if (surface_fd_kind(fd) != kind)
			return NULL;
		e = entry_of(fd);
		if (!e) /* not cached: an object for this use alone */
			return surface_identity(fd, &ref) ? NULL : obj_find(ref.dev, ref.ino, kind);
		index = load_acquire(&e->obj);
		obj = index ? surface_obj_hold(index - 1) : NULL;
		if (obj && obj->ino == e->ino && obj->dev == e->dev)
			return obj;
		if (obj)
			surface_obj_put(obj);
	}
	return NULL;
}

/* Whoever forgets an entry takes its object out first and the belief next; here it is the other way
 * round, so one of both sees what the other does. The object is held: what is behind its index cannot
 * have become another one meanwhile. */
bool surface_fd_believe(int fd)
{
	u64 changes = __atomic_load_n(&surface_changes, __ATOMIC_RELAXED);
	struct surface_fd *e = entry_of(fd);
	u32 index = e ? load_acquire(&e->obj) : 0;
	struct surface_obj *obj = index ? surface_obj_hold(index - 1) : NULL;
	struct shim_fd_ref ref;
	bool same;

	if (!obj)
		return false;
	same = load_acquire(&e->kind) == SHIM_FD_MAP && load_acquire(&obj->mapped) &&
	       !surface_identity(fd, &ref) && ref.ino == obj->ino && ref.dev == obj->dev;
	if (same) {
		__atomic_store_n(&e->uses, 0, __ATOMIC_RELAXED);
		__atomic_exchange_n(&e->belief, changes << 32 | index, __ATOMIC_SEQ_CST);
		same = __atomic_load_n(&e->obj, __ATOMIC_SEQ_CST) == index;
	}
	if (!same)
		store_release(&e->belief, 0);
	surface_obj_put(obj);
	return same;
}

long surface_obj_map(struct surface_obj *obj, int fd)
{
	char path[64], number[24];
	struct stat st = { .st_size = 0 };
	long err = 0, at = 0, own;
	u64 mask;

	if (likely(load_acquire(&obj->mapped)))
		return 0;
	mask = surface_lock(&surface.self->table_lock);
	if (obj->mapped)
		goto out;
	surface_join(path, sizeof(path), "/proc/self/fd/", surface_decimal(number, (u64)fd), "");
	own = shim_sys3(SYS_open, path, O_RDWR | O_CLOEXEC, 0);
	if (own == -ENOENT || own == -EACCES) /* no /proc: the mapping then keeps the map alive */
		own = shim_sys3(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 3);
	err = own < 0 ? own : shim_sys2(SYS_fstat, own, &st);
	if (!err) {
		at = shim_sys6(SYS_mmap, 0, st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, own, 0);
		err = at < 0 && at > -4096 ? at : 0;
	}
	if (own >= 0)
		surface_close((int)own);
	if (err)
		goto out;
	err = shim_map_desc_init(&obj->desc, (void *)at, (u64)st.st_size);
	if (err) {
		shim_sys2(SYS_munmap, at, st.st_size);
		goto out;
	}
	obj->base = (u64)at;
	obj->size = (u64)st.st_size;
	obj->desc.ctl = (u64)surface.ctl;
	obj->desc.perf = (u64)surface.perf;
	obj->desc.perf_size = surface.perf_size;
	surface_fast_describe(obj);
	store_release(&obj->mapped, 1);
out:
	surface_unlock(&surface.self->table_lock, mask);
	return err;
}

struct surface_obj *surface_ring_get(int fd)
{
	u32 kind = surface_fd_known(fd);
	struct surface_obj *obj;

	if (kind != SHIM_FD_PERF_RING && kind != SHIM_FD_MAP)
		return NULL;
	obj = surface_obj_get(fd, kind);
	if (!obj || kind == SHIM_FD_PERF_RING)
		return obj;
	if (!surface_obj_map(obj, fd) && (obj->desc.type == 27 || obj->desc.type == 31))
		return obj; /* BPF_MAP_TYPE_RINGBUF, USER_RINGBUF */
	surface_obj_put(obj);
	return NULL;
}
