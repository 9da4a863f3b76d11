/*
 * What each CPU has of an LRU map whose CPUs share one set of lists: elements that are ready, and those
 * that it has handed out of late (pending), which get to the lists when it needs others
 * (kernel/bpf/bpf_lru_list.c).
 *
 * What a CPU hands out and gets back it notes in a log of its own, under its own lock; the lists
 * change when elements are got ready, some 128 at a time: until then an element stays on the list that
 * it was on, and its 'where' says that it is there no longer. So does the free element that an update
 * of a known key wants and does not use: it stays ready, and is owed to all. Whoever looks through
 * the lists brings what all CPUs have noted to them first, but for a CPU at work: that is as if it
 * were a moment later.
 *
 * 'where' is changed by one store and is what counts: what lies in a log or among those that are ready
 * and is not so by its 'where' is passed over.
 */
#include "map_lru_cpu.h"

void common_free(struct lru *l, u32 index, bool ready)
{
	struct lru_node *n = node_at(l, index);

	if (n->list != NOWHERE)
		lru_unlink(l, index);
	if (ready && make_ready(l, index))
		return;
	set_where(l, index, FREE_FOR_ALL);
	__atomic_store_n(&elem_at(l->d, index)->transit, ELEM_FREE, __ATOMIC_RELEASE);
	n->next = l->state->free;
	__atomic_store_n(&l->state->free, index + 1, __ATOMIC_RELEASE);
}

/* the log */

static void set_log(struct lru *l, u32 n)
{
	__atomic_store_n(&l->mine->nr_log, n, __ATOMIC_RELEASE);
}

/* Off its list if it is there no longer, or free for all. */
static inline void strip_one(struct lru *l, u32 index, u32 is)
{
	if (is == GONE)
		common_free(l, index, false);
	else if (is != LISTED && l->node[index].list != NOWHERE)
		lru_unlink(l, index);
}

/* All that the log names. How many are pending or were. */
static u32 strip(struct lru *l)
{
	const u32 n = logged(l), nr = l->nr, *log = log_of(l);
	u32 others = 0;

	for (u32 at = 0; at < n; at++) {
		u32 i = READ_ONCE(log[at]), is;

		if (i >= nr)
			continue;
		is = where(l, i);
		strip_one(l, i, is);
		others += is != GONE;
	}
	return others;
}

/* To the front of the inactive list, and what gets there next before it. */
struct front {
	u32 first, count;
};

static void front_begin(const struct lru *l, struct front *f)
{
	*f = (struct front){ newest(l, INACTIVE), 0 };
}

static void front_end(const struct lru *l, const struct front *f)
{
	struct lru_node *head = node_at(l, l->nr + INACTIVE);

	head->next = f->first;
	head->list += f->count;
}

/* index: off its list. */
static inline void front_link(const struct lru *l, struct front *f, u32 index)
{
	l->node[index].list = INACTIVE;
	l->node[index].next = f->first;
	l->node[index].prev = l->nr + INACTIVE;
	node_at(l, f->first)->prev = index;
	f->first = index;
	f->count++;
}

/* It was used, or is on a list still. */
static void flush_one(struct lru *l, struct front *f, u32 index)
{
	struct elem *e = elem_at(l->d, index);
	u32 list = READ_ONCE(e->ref) ? ACTIVE : INACTIVE;

	front_end(l, f);
	if (l->node[index].list != NOWHERE)
		lru_unlink(l, index);
	WRITE_ONCE(e->ref, 0);
	lru_link(l, index, list);
	front_begin(l, f);
}

/* What was handed out of late is as old as the rest now. */
static void flush(struct lru *l)
{
	const u32 nr = l->nr, *log = log_of(l);
	const u32 n = !l->mine->untidy || strip(l) ? logged(l) : 0;
	struct front f;

	front_begin(l, &f);
	for (u32 at = 0; at < n; at++) {
		u32 i = READ_ONCE(log[at]);

		if (i >= nr || where(l, i) != is_pending(l, at))
			continue;
		if (READ_ONCE(elem_at(l->d, i)->ref) || l->node[i].list != NOWHERE)
			flush_one(l, &f, i);
		else
			front_link(l, &f, i);
		set_where(l, i, LISTED);
	}
	front_end(l, &f);
	WRITE_ONCE(l->mine->untidy, 0);
	set_log(l, 0);
}

/* What a CPU has noted gets to the lists; what is pending stays so. */
static void tidy(struct lru *l)
{
	const u32 n = logged(l), nr = l->nr;
	u32 *log = log_of(l), kept = 0, left = nr_ready(l);

	for (u32 at = 0; at < n; at++) {
		u32 i = READ_ONCE(log[at]), is;

		if (i >= nr)
			continue;
		is = where(l, i);
		strip_one(l, i, is);
		if (is != is_pending(l, at))
			continue;
		WRITE_ONCE(log[kept], i);
		set_where(l, i, is_pending(l, kept++));
	}
	set_log(l, kept);
	for (; l->mine->owed && left; WRITE_ONCE(l->mine->owed, l->mine->owed - 1)) {
		u32 i = READ_ONCE(l->mine->at[--left]);

		WRITE_ONCE(l->mine->nr_ready, left);
		if (i < l->nr && where(l, i) == is_ready(l))
			common_free(l, i, false);
	}
}

static long lists_lock(struct lru *l)
{
	long ret = run_lock(&l->state->lock, l->run);

	if (ret > 0)
		lru_rebuild(l);
	return ret;
}

/* The lists' lock is not held. */
bool common_make_room(struct lru *l)
{
	if (lists_lock(l) < 0)
		return false;
	tidy(l);
	if (logged(l) + 2 > log_room(l))
		flush(l);
	run_unlock(&l->state->lock, l->run);
	return true;
}

/* getting elements ready */

static void tidy_others(struct lru *l)
{
	for (u32 cpu = 0; cpu < l->d->nr_cpus; cpu++) {
		struct lru other;

		if (cpu == l->cpu)
			continue;
		lru_open(&other, l->d, cpu, l->run);
		if (!(READ_ONCE(other.mine->nr_log) | READ_ONCE(other.mine->owed)) ||
		    !run_trylock(&other.mine->lock, l->run))
			continue;
		tidy(&other);
		run_unlock(&other.mine->lock, l->run);
	}
}

static u32 free_for_all(struct lru *l)
{
	u32 at;

	for (u32 n = 0; n <= l->nr; n++) {
		at = l->state->free;
		if (!at || at > l->nr)
			break;
		__atomic_store_n(&l->state->free, node_at(l, at - 1)->next, __ATOMIC_RELEASE);
		if (where(l, at - 1) == FREE_FOR_ALL)
			return at - 1;
	}
	return l->nr;
}

static long refill(struct lru *l)
{
	u32 want = l->d->lru_target, owed = l->mine->owed, i;
	long err = lists_lock(l);

	if (err < 0)
		return err;
	tidy_others(l);
	flush(l);
	lru_rotate(l);
	if (!l->state->free && !owed)
		lru_reclaim(l, want);
	if (owed > want)
		owed = want;
	WRITE_ONCE(l->mine->owed, l->mine->owed - owed);
	for (want -= owed; want; want--) {
		i = free_for_all(l);
		if (i == l->nr || !make_ready(l, i))
			break;
	}
	if (want)
		lru_shrink(l, want);
	run_unlock(&l->state->lock, l->run);
	return 0;
}

/* The oldest that a CPU has handed out: one that was not used, or any. */
static u32 evict_pending(struct lru *l)
{
	u32 n = logged(l);

	for (u32 any = 0; any < 2; any++)
		for (u32 at = 0; at < n; at++) {
			u32 i = READ_ONCE(log_of(l)[at]);

			if (i < l->nr && where(l, i) == is_pending(l, at) && (any || !used(l, i)) &&
			    lru_evict(l, i))
				return i;
		}
	return l->nr;
}

/* In this run's hand, whatever happens to it. */
static u32 take_from(struct lru *l)
{
	u32 i = newest_ready(l);

	if (i < l->nr) {
		__atomic_store_n(&elem_at(l->d, i)->transit, l->run->owner, __ATOMIC_RELEASE);
		set_where(l, i, HELD);
		WRITE_ONCE(l->mine->nr_ready, nr_ready(l) - 1);
		return i;
	}
	i = evict_pending(l);
	if (i < l->nr)
		set_where(l, i, HELD);
	return i;
}

/* From the CPUs, one after the other; the CPU's lock is let go meanwhile. */
static long steal(struct lru *l)
{
	u32 cpus = l->d->nr_cpus, at = l->mine->steal % cpus, i = l->nr;
	long err;

	lru_unlock(l);
	for (u32 n = 0; n < cpus && i >= l->nr; n++, at = (at + 1) % cpus) {
		struct lru other;

		lru_open(&other, l->d, at, l->run);
		if (lru_lock(&other) < 0)
			continue;
		i = take_from(&other);
		lru_unlock(&other);
	}
	err = lru_lock(l);
	if (err < 0)
		return err; /* what is in our hand stays there until we are dead */
	l->mine->steal = at;
	if (i < l->nr && !make_ready(l, i) && !lists_lock(l)) {
		common_free(l, i, false);
		run_unlock(&l->state->lock, l->run);
	}
	return 0;
}

long common_refill(struct lru *l)
{
	long err = log_ready(l) ? 0 : -EBUSY;

	if (!err && newest_ready(l) == l->nr)
		err = refill(l);
	if (err >= 0 && newest_ready(l) < l->nr)
		return 0;
	if (err >= 0) {
		err = steal(l);
		if (err < 0)
			return err;
		err = !log_ready(l) ? -EBUSY : newest_ready(l) < l->nr ? 0 : -ENOMEM;
	}
	if (err < 0)
		lru_unlock(l);
	return err;
}

void common_mend(struct lru *l)
{
	WRITE_ONCE(l->mine->owed, 0);
	WRITE_ONCE(l->mine->nr_ready, 0);
	for (u32 i = 0; i < l->nr; i++)
		if (where(l, i) == is_ready(l) && !make_ready(l, i))
			break;
}
