/*
 * Where an LRU map's update gets its element, and where elements go that are free again: a CPU's own
 * lists (BPF_F_NO_COMMON_LRU), or what it has of the common ones (map_lru_cpu.c).
 *
 * The CPU is the virtual one of a run, where the machine has as many; else the machine's own.
 */
#include "map_lru_cpu.h"

enum { OWN_TARGET = 4, TRIES = 16 };

void lru_mend(struct lru *l)
{
	if (own_lists(l->d))
		lru_rebuild(l);
	else
		common_mend(l);
}

long own_ready(struct lru *l)
{
	lru_rotate(l);
	if (newest(l, l->set + FREE) >= l->nr)
		lru_reclaim(l, OWN_TARGET);
	if (newest(l, l->set + FREE) >= l->nr)
		lru_shrink(l, OWN_TARGET);
	if (newest(l, l->set + FREE) < l->nr)
		return 0;
	lru_unlock(l);
	return -ENOMEM;
}

u32 own_take(struct lru *l)
{
	u32 i = newest(l, l->set + FREE);

	if (i < l->nr) {
		__atomic_store_n(&elem_at(l->d, i)->transit, l->run->owner, __ATOMIC_RELEASE);
		lru_move(l, i, l->set + INACTIVE);
	}
	return i;
}

/* Whose lock an element wants that is free again. */
static u32 cpu_of(const struct lru *l, u32 index)
{
	u32 is = where(l, index), cpu = l->cpu;

	if (own_lists(l->d))
		cpu = index / (l->nr / l->d->nr_cpus);
	else if (is >> 30 == PENDING >> 30)
		cpu = (is & ~PENDING) >> CPU_SHIFT;
	return cpu < l->d->nr_cpus ? cpu : 0;
}

bool own_renew(struct lru *l, u32 index)
{
	u32 *turn = turn_of(l);
	/* in the kernel the new element is in front of it before it goes: the turn is that one's then */
	bool stays = *turn == index && newest(l, l->set + INACTIVE) == index;

	if (cpu_of(l, index) != l->cpu)
		return false;
	lru_move(l, index, l->set + INACTIVE);
	if (stays)
		*turn = index;
	return true;
}

/* False: it is another CPU's. */
static bool give(struct lru *l, u32 index)
{
	if (!own_lists(l->d))
		return common_give(l, index);
	if (cpu_of(l, index) != l->cpu)
		return false;
	lru_move(l, index, l->set + FREE);
	__atomic_store_n(&elem_at(l->d, index)->transit, ELEM_FREE, __ATOMIC_RELEASE);
	return true;
}

void lru_end_with(struct lru *l, u32 gone)
{
	bool done = give(l, gone);

	lru_unlock(l);
	if (!done)
		lru_free(l->d, gone, l->run);
}

void lru_free(const struct shim_map_desc *d, u32 index, struct shim_run *run)
{
	bool done = false;
	struct lru l;

	for (u32 i = 0; !done && i < TRIES; i++) {
		u32 cpu;

		lru_open(&l, d, lru_cpu(d, run), run);
		cpu = cpu_of(&l, index);
		if (cpu != l.cpu)
			lru_open(&l, d, cpu, run);
		if (lru_lock(&l) < 0)
			break;
		done = give(&l, index);
		lru_unlock(&l);
	} /* else it stays in our hand until we are dead */
}
