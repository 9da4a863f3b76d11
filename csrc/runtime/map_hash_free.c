/*
 * Which elements of a hash map are free, so that a kill -9 anywhere loses none.
 *
 * An element's 'transit' says where it is: 0 in a chain, FREE on the free list, else in the hand of
 * the owner named. It changes to and from FREE under the list's lock alone; an element that is
 * unlinked gets its owner's name first, one that is linked loses it last. So whoever takes the lock
 * from a dead owner, or finds the list empty, can sort all elements again: FREE ones, and those in
 * the hand of the dead that no chain holds, are free. Order of locks: this one, then a bucket's.
 */
#include "map_hash.h"

enum { FREE = 1 }; /* no owner word: slot 0 is never used */
enum { LOOK_EVERY = 64 }; /* of the times that the map was full, one is looked into */

struct state {
	u32 lock;
	u32 head; /* index + 1 of the first free element, 0: none */
	u32 fresh; /* elements never used begin here */
	u32 full; /* how often nothing was free */
};

static bool linked(const struct shim_map_desc *d, u32 index)
{
	u32 at = bucket_of(d, elem_at(d, index)->hash)->head;

	for (u32 n = 0; at && at <= d->nr_elems && n <= d->nr_elems; n++) {
		if (at == index + 1)
			return true;
		at = elem_at(d, at - 1)->next;
	}
	return false;
}

static void add(const struct shim_map_desc *d, struct state *s, u32 index)
{
	struct elem *e = elem_at(d, index);

	__atomic_store_n(&e->next, s->head, __ATOMIC_RELAXED);
	__atomic_store_n(&s->head, index + 1, __ATOMIC_RELEASE);
	__atomic_store_n(&e->transit, FREE, __ATOMIC_RELEASE);
}

/* An element in the hand of the dead: in a chain after all, or free. */
static void settle(const struct shim_map_desc *d, struct state *s, u32 index, struct shim_run *run)
{
	struct bucket *b = bucket_of(d, elem_at(d, index)->hash);

	if (run_lock(&b->lock, run) < 0)
		return;
	if (linked(d, index))
		__atomic_store_n(&elem_at(d, index)->transit, 0, __ATOMIC_RELEASE);
	else
		add(d, s, index);
	run_unlock(&b->lock, run);
}

static void rebuild(const struct shim_map_desc *d, struct state *s, struct shim_run *run)
{
	u32 used = s->fresh < d->nr_elems ? s->fresh : d->nr_elems;

	s->head = 0;
	for (u32 i = 0; i < used; i++) {
		u32 owner = __atomic_load_n(&elem_at(d, i)->transit, __ATOMIC_ACQUIRE);

		if (owner == FREE)
			add(d, s, i);
		else if (owner && owner_dead(desc_ctl(d), owner))
			settle(d, s, i, run);
	}
}

/* Negative: not taken. */
static long hold(const struct shim_map_desc *d, struct state *s, struct shim_run *run)
{
	long ret = run_lock(&s->lock, run);

	if (ret > 0)
		rebuild(d, s, run);
	return ret;
}

void hash_push(const struct shim_map_desc *d, u32 index, struct shim_run *run)
{
	struct state *s = desc_at(d, d->state_off);

	if (hold(d, s, run) < 0)
		return; /* it stays in our hand until we are dead */
	add(d, s, index);
	run_unlock(&s->lock, run);
}

static u32 take_first(const struct shim_map_desc *d, struct state *s, u32 owner)
{
	u32 at = s->head;

	if (at && at <= d->nr_elems) {
		__atomic_store_n(&elem_at(d, at - 1)->transit, owner, __ATOMIC_RELEASE);
		__atomic_store_n(&s->head, elem_at(d, at - 1)->next, __ATOMIC_RELEASE);
		return at - 1;
	}
	at = s->fresh;
	if (at >= d->nr_elems)
		return d->nr_elems;
	__atomic_store_n(&elem_at(d, at)->transit, owner, __ATOMIC_RELEASE);
	__atomic_store_n(&s->fresh, at + 1, __ATOMIC_RELEASE);
	return at;
}

u32 hash_pop(const struct shim_map_desc *d, struct shim_run *run)
{
	struct state *s = desc_at(d, d->state_off);
	u32 at;

	if (hold(d, s, run) < 0)
		return d->nr_elems;
	at = take_first(d, s, run->owner);
	if (at == d->nr_elems && s->full++ % LOOK_EVERY == 0) {
		rebuild(d, s, run);
		at = take_first(d, s, run->owner);
	}
	run_unlock(&s->lock, run);
	return at;
}
