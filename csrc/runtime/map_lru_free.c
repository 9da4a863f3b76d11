/*
 * Where an LRU map's update gets its element, and where elements go that are free again: from and to
 * lists of the CPU, which are filled from those that all have (kernel/bpf/bpf_lru_list.c).
 *
 * The CPU is the virtual one of a run, where the machine has as many; else the machine's own.
 */
#include "map_lru.h"

enum { TARGET = 128, OWN_TARGET = 4 }; /* elements that are got ready at a time */

u32 lru_cpu(const struct shim_map_desc *d, const struct shim_run *run)
{
	u32 cpu = run->vcpu < d->nr_cpus ? run->vcpu : real_cpu() & 0xfff;

	return cpu < d->nr_cpus ? cpu : cpu % d->nr_cpus;
}

long lru_lock(struct lru *l, const struct shim_map_desc *d, u32 cpu, struct shim_run *run)
{
	long ret;

	lru_open(l, d, cpu, run);
	ret = run_lock(&l->state->lock, run);
	if (ret > 0)
		lru_rebuild(l);
	return ret;
}

void lru_unlock(struct lru *l)
{
	run_unlock(&l->state->lock, l->run);
}

static u32 target(const struct shim_map_desc *d)
{
	u32 share = d->nr_elems / d->nr_cpus / 2;

	return share < 1 ? 1 : share > TARGET ? TARGET : share;
}

/* What was handed out of late is as old as the rest now. */
static void flush(struct lru *l)
{
	u32 i = oldest(l, pending(l->cpu)), next;

	for (u32 n = 0; n < l->nr && i < l->nr; n++, i = next) {
		next = newer(l, i);
		lru_move(l, i, used(l, i) ? ACTIVE : INACTIVE);
	}
}

static void refill(struct lru *l)
{
	u32 want = target(l->d), to = local_free(l->cpu), i;

	flush(l);
	lru_rotate(l);
	if (newest(l, FREE) >= l->nr)
		lru_reclaim(l, want);
	for (; want; want--) {
		i = newest(l, FREE);
		if (i >= l->nr)
			break;
		lru_move(l, i, to);
	}
	if (want)
		lru_shrink(l, want, to);
}

/* The oldest that a CPU has handed out: one that was not used, or any. */
static u32 evict_pending(struct lru *l, u32 cpu)
{
	for (u32 any = 0; any < 2; any++) {
		u32 i = oldest(l, pending(cpu));

		for (u32 n = 0; n < l->nr && i < l->nr; n++, i = newer(l, i))
			if ((any || !used(l, i)) && lru_evict(l, i))
				return i;
	}
	return l->nr;
}

/* From the lists of the CPUs, one after the other. */
static u32 steal(struct lru *l)
{
	struct lru_cpu *mine = &l->state->cpu[l->cpu];
	u32 cpus = l->d->nr_cpus, at = mine->steal % cpus, i = l->nr;

	for (u32 n = 0; n < cpus && i >= l->nr; n++, at = (at + 1) % cpus) {
		i = newest(l, local_free(at));
		if (i >= l->nr)
			i = evict_pending(l, at);
	}
	mine->steal = at;
	return i;
}

static u32 pop_common(struct lru *l)
{
	u32 i = newest(l, local_free(l->cpu));

	if (i >= l->nr) {
		refill(l);
		i = newest(l, local_free(l->cpu));
	}
	if (i >= l->nr)
		i = steal(l);
	if (i < l->nr)
		lru_take(l, i, pending(l->cpu));
	return i;
}

static u32 pop_own(struct lru *l)
{
	u32 i;

	lru_rotate(l);
	if (newest(l, l->set + FREE) >= l->nr)
		lru_reclaim(l, OWN_TARGET);
	if (newest(l, l->set + FREE) >= l->nr)
		lru_shrink(l, OWN_TARGET, l->set + FREE);
	i = newest(l, l->set + FREE);
	if (i < l->nr)
		lru_take(l, i, l->set + INACTIVE);
	return i;
}

u32 lru_pop(struct lru *l)
{
	return own_lists(l->d) ? pop_own(l) : pop_common(l);
}

void lru_push(struct lru *l, u32 index)
{
	struct lru own = *l;
	u32 at;

	if (own_lists(l->d)) {
		at = index / (l->nr / l->d->nr_cpus);
		own.set = at * SET;
		own.turn = &l->state->cpu[at].turn;
		lru_give(&own, index, own.set + FREE);
		return;
	}
	at = node_at(l, index)->list - SET; /* of a CPU, if it is one of theirs */
	if (at < l->d->nr_cpus * OF_CPU && at % OF_CPU)
		lru_give(l, index, local_free(at / OF_CPU));
	else
		lru_give(l, index, FREE);
}

void lru_free(const struct shim_map_desc *d, u32 index, struct shim_run *run)
{
	struct lru l;

	if (lru_lock(&l, d, 0, run) < 0)
		return; /* it stays in our hand until we are dead */
	lru_push(&l, index);
	lru_unlock(&l);
}
