/*
 * Which elements of a hash map are free, so that a kill -9 anywhere loses none.
 *
 * An element's 'transit' says where it is: 0 in a chain, ELEM_FREE on the free list, ELEM_SPARE with its
 * bucket, else in the hand of the owner named. It changes to and from ELEM_FREE under the list's lock alone;
 * an element that is unlinked gets its owner's name first, one that is linked loses it last. So whoever
 * takes the lock from a dead owner can sort all elements again: the free ones, and those in the hand of the
 * dead that no chain and no bucket holds, are free. Who finds the list empty looks for such on the way, by a
 * hand that goes round. Order of locks: this one, then a bucket's; in the other order without waiting.
 *
 * A bucket keeps the element of a key that is deleted for the next key, under the lock that both have anyway:
 * named after it was unlinked, forgotten before it is linked. Where the list is empty, buckets' spares are
 * brought to it. When few are found, so that each would cost a long look, none is kept until the list is
 * long again, and each bucket is asked once. Of many buckets, that begins before the list is empty, some
 * at each update, so that none of them has to ask all.
 *
 * Where the map is not preallocated, elements get their memory as they are first used. LRU maps have
 * lists of their own (map_lru_free.c), and the same words in 'transit'.
 */
#include "map_hash.h"

/* Elements looked at where the map is full: the first time, and each time after that. */
enum { LOOK_FIRST = 16384, LOOK_AGAIN = 32 };
/* Buckets that are looked at for a spare, and how many spares are brought at most, while there are some. */
enum { LOOK_BUCKETS = 256, BRING = 32 };
/* Parts of all elements: that are on the list when spares are kept again; that are left when none is kept of
 * many buckets, and how many are asked at an update then: all, before the list is empty. */
enum { PLENTY = 4, FEW = 8, MANY = 4096, ASK = 3 * FEW };

/*
 * The element that is taken as the n-th of those never used: not one next to that before, with which it
 * would share a line of the cache, each thread's key its own. Of 64 or 128 elements first each second or
 * fourth one, then those behind them.
 */
static u32 element(const struct shim_map_desc *d, u32 n)
{
	const u32 line = 64, first = 32;
	u32 shift = d->stride > line / 2 && d->stride < line ? 2 : 1;
	u32 in = n & ((first << shift) - 1), block = n - in;

	if (d->stride % line == 0 || d->stride > 1024 || d->nr_elems - block < first << shift)
		return n;
	return block + ((in & (first - 1)) << shift) + in / first;
}

static bool linked(const struct shim_map_desc *d, u32 index)
{
	u32 at = READ_ONCE(bucket_of(d, READ_ONCE(elem_at(d, index)->hash))->head);

	for (u32 n = 0; at && at <= d->nr_elems && n <= d->nr_elems; n++) {
		if (at == index + 1)
			return true;
		at = READ_ONCE(elem_at(d, at - 1)->next);
	}
	return false;
}

static void add(const struct shim_map_desc *d, struct hash_free *s, u32 index)
{
	struct elem *e = elem_at(d, index);

	/* first: who walks over it in its chain and has its next one looks at this afterwards */
	__atomic_store_n(&e->transit, ELEM_FREE, __ATOMIC_RELEASE);
	__atomic_store_n(&e->next, s->head, __ATOMIC_RELEASE);
	__atomic_store_n(&s->head, index + 1, __ATOMIC_RELEASE);
	WRITE_ONCE(s->listed, s->listed + 1);
	if (__builtin_expect(READ_ONCE(s->scarce), 0) && s->listed > d->nr_elems / PLENTY)
		WRITE_ONCE(s->scarce, 0);
}

bool hash_settle(const struct shim_map_desc *d, u32 index, struct shim_run *run)
{
	struct elem *e = elem_at(d, index);
	u32 owner = __atomic_load_n(&e->transit, __ATOMIC_ACQUIRE);
	struct bucket *b = bucket_of(d, READ_ONCE(e->hash));
	bool ours;

	if (!owner || owner == ELEM_FREE || !owner_dead(desc_ctl(d), owner))
		return false;
	if (run_lock(&b->lock, run) < 0)
		return false;
	ours = READ_ONCE(e->transit) == owner; /* else somebody has mended it meanwhile */
	if (ours && linked(d, index)) {
		ours = false;
		__atomic_store_n(&e->transit, 0, __ATOMIC_RELEASE);
	} else if (ours && !is_lru(d) && READ_ONCE(*spare_of(d, READ_ONCE(e->hash))) == index + 1) {
		ours = false;
		__atomic_store_n(&e->transit, ELEM_SPARE, __ATOMIC_RELEASE);
	}
	if (ours)
		__atomic_store_n(&e->transit, run->owner, __ATOMIC_RELEASE);
	run_unlock(&b->lock, run);
	return ours;
}

static __attribute__((noinline)) void rebuild(const struct shim_map_desc *d, struct hash_free *s,
					      struct shim_run *run)
{
	u32 used = s->fresh < d->nr_elems ? s->fresh : d->nr_elems;

	s->head = 0;
	s->listed = 0;
	for (u32 n = 0; n < used; n++) {
		u32 i = element(d, n);

		if (READ_ONCE(elem_at(d, i)->transit) == ELEM_FREE || hash_settle(d, i, run))
			add(d, s, i);
	}
}

/* Negative: not taken. */
static inline __attribute__((always_inline)) long hold(const struct shim_map_desc *d,
						       struct hash_free *s, struct shim_run *run)
{
	long ret = run_lock(&s->lock, run);

	if (__builtin_expect(ret > 0, 0))
		rebuild(d, s, run);
	return ret;
}

void hash_push(const struct shim_map_desc *d, u32 index, struct shim_run *run)
{
	struct hash_free *s = desc_at(d, 0);

	if (is_lru(d)) {
		lru_free(d, index, run);
		return;
	}
	if (hold(d, s, run) < 0)
		return; /* it stays in our hand until we are dead */
	add(d, s, index);
	run_unlock(&s->lock, run);
}

static long take_first(const struct shim_map_desc *d, struct hash_free *s, u32 owner)
{
	u32 at = s->head, n = READ_ONCE(s->fresh), grown = READ_ONCE(s->grown);
	long err = 0;

	if (at && at <= d->nr_elems) {
		__atomic_store_n(&elem_at(d, at - 1)->transit, owner, __ATOMIC_RELEASE);
		__atomic_store_n(&s->head, READ_ONCE(elem_at(d, at - 1)->next), __ATOMIC_RELEASE);
		WRITE_ONCE(s->listed, s->listed - 1);
		return at - 1;
	}
	if (n >= d->nr_elems)
		return -E2BIG;
	at = element(d, n);
	while (!err && d->map_flags & BPF_F_NO_PREALLOC && at >= grown) {
		err = grow(d, grown, &grown, percpu(d) ? cpu_values(d, 0) : 0);
		WRITE_ONCE(s->grown, grown);
	}
	if (err)
		return err;
	__atomic_store_n(&elem_at(d, at)->transit, owner, __ATOMIC_RELEASE);
	__atomic_store_n(&s->fresh, n + 1, __ATOMIC_RELEASE);
	return at;
}

/* What the dead had in their hands. */
static __attribute__((noinline)) long look(const struct shim_map_desc *d, struct hash_free *s,
					   struct shim_run *run)
{
	u32 most = s->full ? LOOK_AGAIN : LOOK_FIRST;

	s->full = 1;
	for (u32 i = 0; i < most && i < d->nr_elems; i++) {
		u32 index = s->hand < d->nr_elems ? s->hand : 0;

		s->hand = index + 1;
		if (hash_settle(d, index, run)) {
			s->full = 0;
			return index;
		}
	}
	return -E2BIG;
}

/* A bucket's spare gets to the list. False: the bucket is not to be had, though who is patient waits for it. */
static bool bring(const struct shim_map_desc *d, struct hash_free *s, u32 at, bool patient,
		  struct shim_run *run, u32 *found)
{
	struct bucket *b = bucket_of(d, at);
	u32 *spare = spare_of(d, at), index;

	if (!run_trylock(&b->lock, run) && (!patient || run_lock_waiting(&b->lock, run) < 0))
		return false;
	index = READ_ONCE(*spare) - 1;
	if (index < d->nr_elems)
		__atomic_store_n(&elem_at(d, index)->transit, run->owner, __ATOMIC_RELEASE);
	__atomic_store_n(spare, 0, __ATOMIC_RELEASE);
	run_unlock(&b->lock, run);
	if (index < d->nr_elems) {
		add(d, s, index);
		++*found;
	}
	return true;
}

/* While buckets keep spares: of some of them. */
static bool bring_some(const struct shim_map_desc *d, struct hash_free *s, struct shim_run *run)
{
	u32 found = 0;

	for (u32 n = 0; n < LOOK_BUCKETS && n <= d->bucket_mask && found < BRING; n++) {
		u32 at = s->bucket & d->bucket_mask;

		s->bucket = at + 1;
		if (READ_ONCE(*spare_of(d, at)))
			bring(d, s, at, true, run, &found);
	}
	return found;
}

static void keep_none(const struct shim_map_desc *d, struct hash_free *s)
{
	WRITE_ONCE(s->ask, d->bucket_mask + 1);
	WRITE_ONCE(s->scarce, 1);
	/* who locks a bucket that is found unlocked from here on sees it */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* While they keep none: of so many that have not been asked yet. Who has the lock of one may be about to keep
 * one. */
static bool ask(const struct shim_map_desc *d, struct hash_free *s, u32 buckets, bool patient,
		struct shim_run *run)
{
	bool unknown = false;
	u32 found = 0;

	for (; buckets && READ_ONCE(s->ask); buckets--) {
		u32 at = s->bucket & d->bucket_mask;
		u32 locked = __atomic_load_n(&bucket_of(d, at)->lock, __ATOMIC_ACQUIRE);

		if ((locked || READ_ONCE(*spare_of(d, at))) && !bring(d, s, at, patient, run, &found)) {
			if (!patient)
				return found;
			unknown = true;
		}
		s->bucket = at + 1;
		WRITE_ONCE(s->ask, s->ask - 1);
	}
	if (unknown)
		WRITE_ONCE(s->ask, d->bucket_mask + 1);
	else if (!READ_ONCE(s->ask))
		WRITE_ONCE(s->kept, 0);
	return found;
}

/* One was taken, and few are left. */
static __attribute__((noinline)) void foresee_few(const struct shim_map_desc *d, struct hash_free *s,
						  struct shim_run *run)
{
	if (d->bucket_mask < MANY || !READ_ONCE(s->kept))
		return;
	if (!READ_ONCE(s->scarce))
		keep_none(d, s);
	ask(d, s, ASK, false, run);
}

static inline void foresee(const struct shim_map_desc *d, struct hash_free *s, struct shim_run *run)
{
	if (__builtin_expect(s->listed + d->nr_elems - s->fresh < d->nr_elems / FEW, 0))
		foresee_few(d, s, run);
}

/* The list is empty. */
static __attribute__((noinline)) bool gather(const struct shim_map_desc *d, struct hash_free *s,
					     struct shim_run *run)
{
	if (!READ_ONCE(s->kept))
		return false;
	if (!READ_ONCE(s->scarce)) {
		if (bring_some(d, s, run))
			return true;
		keep_none(d, s);
	}
	return ask(d, s, -1u, true, run);
}

/* Not the list's: it is not to be had at once, or empty. */
static u32 take_at_once(const struct shim_map_desc *d, struct shim_run *run)
{
	struct hash_free *s = desc_at(d, 0);
	u32 got = d->nr_elems;

	if (!inner_lock(&s->lock, run->owner))
		return got;
	if (s->head || (s->fresh < d->nr_elems && !(d->map_flags & BPF_F_NO_PREALLOC))) {
		long at = take_first(d, s, run->owner);

		if (at >= 0) {
			got = (u32)at;
			s->full = 0;
			foresee(d, s, run);
		}
	}
	inner_unlock(&s->lock, run->owner);
	return got;
}

u32 hash_take(const struct shim_map_desc *d, u32 hash, struct shim_run *run)
{
	u32 *spare = spare_of(d, hash), index = READ_ONCE(*spare) - 1;

	if (index >= d->nr_elems)
		return take_at_once(d, run);
	__atomic_store_n(&elem_at(d, index)->transit, run->owner, __ATOMIC_RELEASE);
	__atomic_store_n(spare, 0, __ATOMIC_RELEASE);
	return index;
}

long hash_pop(const struct shim_map_desc *d, struct shim_run *run)
{
	struct hash_free *s = desc_at(d, 0);
	long at = hold(d, s, run);

	if (at < 0)
		return at;
	at = take_first(d, s, run->owner);
	if (at == -E2BIG && gather(d, s, run))
		at = take_first(d, s, run->owner);
	if (at == -E2BIG)
		at = look(d, s, run);
	if (at >= 0) {
		s->full = 0;
		foresee(d, s, run);
	}
	run_unlock(&s->lock, run);
	return at;
}
