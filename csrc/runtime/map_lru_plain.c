/*
 * The usual update of the usual LRU map: keys of 4 or 8 bytes, values that are one word of 8 and nothing
 * but bytes, one set of lists for all CPUs, no flags. What map_lru.c does in general is done here for
 * sizes that are constants, as long as a free element is ready and both locks are had at the first
 * try. All else is left to it, as if nothing had been.
 *
 * Most of what an update costs are its stores, of which a processor makes one a cycle, and both locks wait
 * for those before them: so nothing is kept in memory here that a register can hold.
 */
#include "map_lru_cpu.h"

#define ALWAYS __attribute__((always_inline)) inline

/* elem_at(), hash_check() having seen to it that the map's stride is this one. */
static ALWAYS struct elem *plain_elem(const struct shim_map_desc *d, u32 index)
{
	enum { STRIDE = sizeof(struct elem) + 8 + 8 };

	return desc_at(d, d->elem_off + (u64)index * STRIDE);
}

/*
 * Over the value of a key that is there, both locks held; false: it cannot be. cpu: whose lock that is; not
 * asked for again, as a loader's thread may be on another CPU by now.
 */
static __attribute__((noinline)) bool write_over(const struct shim_map_desc *d, u32 cpu, u32 index,
						 const void *value, struct shim_run *run)
{
	struct elem *e = plain_elem(d, index);
	struct lru l;

	lru_open(&l, d, cpu, run);
	if (!common_renew(&l, index))
		return false;
	copy_words(e->key + 8, value, 8);
	if (!READ_ONCE(e->ref))
		WRITE_ONCE(e->ref, 1);
	return true;
}

/* hash_link(), for the index + 1 that is there: 0, none. */
static ALWAYS u32 find(const struct shim_map_desc *d, u32 at, const void *key, u32 hash, const u32 size)
{
	for (u32 left = d->nr_elems; at - 1 < d->nr_elems && left; left--) {
		struct elem *e = plain_elem(d, at - 1);

		if (__builtin_expect(READ_ONCE(e->transit), 0))
			__atomic_store_n(&e->transit, 0, __ATOMIC_RELEASE);
		if (READ_ONCE(e->hash) == hash && same_key(e->key, key, size))
			return at;
		at = READ_ONCE(e->next);
	}
	return 0;
}

/* The newest element that is ready, in this run's hand and the log; both locks are held. */
static ALWAYS void take_spare(struct elem *e, struct lru_node *node, u32 spare, struct lru_cpu *mine,
			      u32 room, u32 pending, u32 owner)
{
	u32 n = pending & ((1u << CPU_SHIFT) - 1);

	__atomic_store_n(&e->transit, owner, __ATOMIC_RELEASE);
	WRITE_ONCE(mine->at[room + n], spare);
	__atomic_store_n(&mine->nr_log, n + 1, __ATOMIC_RELEASE);
	__atomic_store_n(&node->where, pending, __ATOMIC_RELEASE);
	WRITE_ONCE(mine->nr_ready, mine->nr_ready - 1);
}

/* size: of a key. */
static ALWAYS long update_of(const struct shim_map_desc *d, const void *key, const void *value,
			     struct shim_run *run, const u32 size)
{
	const u32 hash = hash_key(key, size), owner = run->owner, cpu = lru_cpu(d, run);
	const u32 room = lru_room(d->lru_target);
	struct bucket *b = bucket_of(d, hash);
	struct lru_cpu *mine = lru_cpu_at(d, cpu);
	u32 ready, n, spare, at;
	struct lru_node *node;
	struct elem *e;

	__builtin_prefetch(b, 1);
	run_holds(run, 1);
	if (!inner_lock(&mine->lock, owner))
		goto out;
	ready = READ_ONCE(mine->nr_ready);
	n = READ_ONCE(mine->nr_log);
	if (ready > room || ready <= READ_ONCE(mine->owed) || n > 2 * room - 2)
		goto unlock;
	spare = READ_ONCE(mine->at[ready - 1]);
	if (spare >= d->nr_elems)
		goto unlock;
	node = (struct lru_node *)desc_at(d, d->lru_nodes) + spare;
	if (READ_ONCE(node->where) != (READY | cpu << CPU_SHIFT) || !inner_lock(&b->lock, owner))
		goto unlock;
	at = find(d, READ_ONCE(b->head), key, hash, size);
	if (at) {
		if (!write_over(d, cpu, at - 1, value, run))
			goto both;
	} else {
		e = plain_elem(d, spare);
		take_spare(e, node, spare, mine, room, PENDING | cpu << CPU_SHIFT | n, owner);
		WRITE_ONCE(e->hash, hash);
		copy_words(e->key, key, size);
		__atomic_thread_fence(__ATOMIC_RELEASE); /* still() of map_hash.c */
		copy_words(e->key + 8, value, 8);
		WRITE_ONCE(e->ref, 0);
		__atomic_store_n(&e->next, READ_ONCE(b->head), __ATOMIC_RELAXED);
		__atomic_store_n(&b->head, spare + 1, __ATOMIC_RELEASE);
		__atomic_store_n(&e->transit, 0, __ATOMIC_RELEASE);
	}
	inner_unlock(&b->lock, owner);
	inner_unlock(&mine->lock, owner);
	run_holds(run, -1u);
	return 0;
both:
	inner_unlock(&b->lock, owner);
unlock:
	inner_unlock(&mine->lock, owner);
out:
	run_holds(run, -1u);
	return lru_update_any(d, key, value, run);
}

static __attribute__((noinline)) long update_4(const struct shim_map_desc *d, const void *key,
					       const void *value, struct shim_run *run)
{
	return update_of(d, key, value, run, 4);
}

static __attribute__((noinline)) long update_8(const struct shim_map_desc *d, const void *key,
					       const void *value, struct shim_run *run)
{
	return update_of(d, key, value, run, 8);
}

long lru_update_plain(const struct shim_map_desc *d, const void *key, const void *value,
		      struct shim_run *run)
{
	if (d->value_size != 8 || percpu(d) || d->lock_at | d->timer_at || own_lists(d))
		return lru_update_any(d, key, value, run);
	if (d->key_size == 4)
		return update_4(d, key, value, run);
	return d->key_size == 8 ? update_8(d, key, value, run) : lru_update_any(d, key, value, run);
}
