/*
 * What each CPU has of an LRU map whose CPUs share one set of lists (map_lru_cpu.c): what every update
 * does with it. All of it under the CPU's lock.
 */
#ifndef SHIM_MAP_LRU_CPU_H
#define SHIM_MAP_LRU_CPU_H

#include "map_lru.h"

/* Slow ways. common_refill: 0, or -EBUSY, -ENOMEM without the CPU's lock. */
long common_refill(struct lru *l);
bool common_make_room(struct lru *l); /* in the log, for two */
/* With the lists' lock too: an element off its list, and free: for all, or ready. */
void common_free(struct lru *l, u32 index, bool ready);
void common_mend(struct lru *l); /* after a death with the CPU's lock held */

static inline u32 log_room(const struct lru *l)
{
	return 2 * l->room;
}

static inline u32 *log_of(const struct lru *l)
{
	return l->mine->at + l->room;
}

static inline u32 logged(const struct lru *l)
{
	u32 n = l->mine->nr_log;

	return n < log_room(l) ? n : log_room(l);
}

static inline u32 nr_ready(const struct lru *l)
{
	u32 n = l->mine->nr_ready;

	return n < l->room ? n : l->room;
}

static inline u32 is_ready(const struct lru *l)
{
	return READY | l->cpu << CPU_SHIFT;
}

static inline u32 is_pending(const struct lru *l, u32 at)
{
	return PENDING | l->cpu << CPU_SHIFT | at;
}

/* index: below l->nr. */
static inline void set_where(struct lru *l, u32 index, u32 is)
{
	__atomic_store_n(&l->node[index].where, is, __ATOMIC_RELEASE);
}

/* Room is there. */
static inline void note(struct lru *l, u32 index, bool pending)
{
	u32 n = logged(l);

	WRITE_ONCE(log_of(l)[n], index);
	__atomic_store_n(&l->mine->nr_log, n + 1, __ATOMIC_RELEASE);
	set_where(l, index, pending ? is_pending(l, n) : GONE);
}

static inline bool make_ready(struct lru *l, u32 index)
{
	u32 n = nr_ready(l);

	if (n == l->room)
		return false;
	set_where(l, index, is_ready(l));
	__atomic_store_n(&elem_at(l->d, index)->transit, ELEM_FREE, __ATOMIC_RELEASE);
	WRITE_ONCE(l->mine->at[n], index);
	__atomic_store_n(&l->mine->nr_ready, n + 1, __ATOMIC_RELEASE);
	return true;
}

/* An element that is off its list, and free: ready if there is room. */
static inline void common_free_ready(struct lru *l, u32 index)
{
	if (!make_ready(l, index))
		common_free(l, index, false);
}

/* The newest of those that are ready: l->nr, there is none. */
static inline u32 newest_ready(struct lru *l)
{
	for (u32 n = nr_ready(l); n > l->mine->owed; n--) {
		u32 i = READ_ONCE(l->mine->at[n - 1]);

		if (i < l->nr && where(l, i) == is_ready(l))
			return i;
		WRITE_ONCE(l->mine->nr_ready, n - 1);
	}
	return l->nr;
}

static inline bool log_ready(struct lru *l)
{
	return __builtin_expect(logged(l) + 2 <= log_room(l), 1) || common_make_room(l);
}

static inline long common_ready(struct lru *l)
{
	long err = 0;

	l->spare = newest_ready(l);
	if (__builtin_expect(logged(l) + 2 > log_room(l) || l->spare >= l->nr, 0)) {
		err = common_refill(l);
		if (!err)
			l->spare = newest_ready(l);
	}
	return err;
}

static inline u32 common_take(struct lru *l)
{
	u32 i = l->spare;

	if (i >= l->nr)
		return i;
	__atomic_store_n(&elem_at(l->d, i)->transit, l->run->owner, __ATOMIC_RELEASE);
	note(l, i, true);
	WRITE_ONCE(l->mine->nr_ready, nr_ready(l) - 1);
	return i;
}

static inline bool common_renew(struct lru *l, u32 index)
{
	u32 is = where(l, index);

	if (is == LISTED) {
		WRITE_ONCE(l->mine->untidy, 1);
		WRITE_ONCE(l->mine->owed, l->mine->owed + 1);
	} else if (is >> CPU_SHIFT != is_pending(l, 0) >> CPU_SHIFT)
		return false;
	else if (is == is_pending(l, logged(l) - 1))
		return true; /* it is the newest already */
	note(l, index, true);
	return true;
}

static inline bool common_give(struct lru *l, u32 index)
{
	u32 is = where(l, index);
	bool pending = is >> 30 == PENDING >> 30;

	if (pending && is >> CPU_SHIFT != is_pending(l, 0) >> CPU_SHIFT)
		return false;
	if (pending && make_ready(l, index))
		return true;
	if (!log_ready(l))
		return false;
	if (pending && l->mine->owed) /* it is free for all, and one of those that are owed is ours */
		WRITE_ONCE(l->mine->owed, l->mine->owed - 1);
	else if (pending && make_ready(l, index)) /* there is room since the log was tidied */
		return true;
	WRITE_ONCE(l->mine->untidy, 1);
	note(l, index, false);
	__atomic_store_n(&elem_at(l->d, index)->transit, ELEM_FREE, __ATOMIC_RELEASE);
	return true;
}

#endif
