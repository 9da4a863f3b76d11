/*
 * The table of descriptors as fast.c looks into it: an entry is believed without a system call if all
 * changes since the last fstat have passed through this library, and for 1024 uses.
 */
#ifndef SHIM_FDTABLE_H
#define SHIM_FDTABLE_H

#include "surface.h"

struct surface_fd {
	u64 dev, ino;
	u64 belief; /* surface_changes at the last fstat << 32 | obj; 0: it is to be asked again */
	u32 kind; /* SHIM_FD_*, SURFACE_FD_*; 0: not known */
	u32 obj; /* index + 1 into surface_tables.objs */
	u32 uses; /* since the last fstat */
	u32 pad[7];
};
_Static_assert(sizeof(struct surface_fd) == 64, "one cache line");

enum { SURFACE_BELIEVED = 1024 }; /* uses */

/* Mapped with the first entry: most processes are targets alone, and have none. */
struct surface_tables {
	struct surface_fd fd[SURFACE_MAX_FD]; /* untouched pages cost nothing */
	struct surface_obj objs[SURFACE_MAX_OBJS];
};
extern struct surface_tables *surface_tables;

/* Asks fstat whether the entry of fd is a map's that is mapped, and that it is still that map. */
bool surface_fd_believe(int fd);

/* The map behind fd, if it is mapped and the entry is believed; not held, but announced in *announce,
 * which keeps it mapped until that is NULL again. The rest of a fence between the announcement and the
 * second look is surface_fast_wait()'s membarrier. */
static inline struct surface_obj *surface_obj_peek(u32 fd, struct surface_obj **announce)
{
	struct surface_tables *t = load_acquire(&surface_tables);
	struct surface_obj *obj;
	struct surface_fd *e;
	u64 belief;
	u32 uses;

	if (unlikely(!t || fd >= SURFACE_MAX_FD))
		return NULL;
	e = &t->fd[fd];
	belief = load_acquire(&e->belief);
	uses = __atomic_load_n(&e->uses, __ATOMIC_RELAXED);
	if (unlikely(belief >> 32 != __atomic_load_n(&surface_changes, __ATOMIC_RELAXED) ||
		     !(u32)belief || uses >= SURFACE_BELIEVED))
		return NULL;
	__atomic_store_n(&e->uses, uses + 1, __ATOMIC_RELAXED);
	obj = &t->objs[(u32)belief - 1];
	__atomic_store_n(announce, obj, __ATOMIC_RELAXED);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	return likely(load_acquire(&e->belief) == belief) ? obj : NULL;
}

#endif
