/*
 * BPF_MAP_TYPE_LRU_HASH and LRU_PERCPU_HASH: hash maps that make room by themselves.
 *
 * The kernel keeps lists of active and inactive elements, which a lookup never touches: it sets a bit
 * in the element. Here the elements lie in a circle instead, and a hand goes round: an element whose
 * bit is set loses it and stays, the next without goes. Hits take no lock; the hand is moved under
 * the lock of the free list, by whoever finds that list empty. One list for all CPUs, with
 * BPF_F_NO_COMMON_LRU too. Source: kernel/bpf/bpf_lru_list.c, hashtab.c.
 */
#include "map_hash.h"

enum { SPARED = 1024 }; /* so many elements with the bit set are passed by; then any one goes */

static bool evict(const struct shim_map_desc *d, u32 index, struct shim_run *run)
{
	struct bucket *b = bucket_of(d, READ_ONCE(elem_at(d, index)->hash));
	bool got;

	if (run_lock(&b->lock, run) < 0)
		return false;
	/* it may have gone, and come back into another chain */
	got = b == bucket_of(d, READ_ONCE(elem_at(d, index)->hash)) && hash_unlink(d, index, run);
	run_unlock(&b->lock, run);
	return got;
}

u32 lru_evict(const struct shim_map_desc *d, u32 *hand, struct shim_run *run)
{
	u32 spared = 0;

	for (u64 left = 2ull * d->nr_elems; left; left--) {
		u32 index = *hand < d->nr_elems ? *hand : 0;
		struct elem *e = elem_at(d, index);
		u32 owner = __atomic_load_n(&e->transit, __ATOMIC_ACQUIRE);

		*hand = index + 1;
		if (owner) {
			if (hash_settle(d, index, run))
				return index;
		} else if (__atomic_load_n(&e->ref, __ATOMIC_RELAXED) && spared++ < SPARED) {
			__atomic_store_n(&e->ref, 0, __ATOMIC_RELAXED);
		} else if (evict(d, index, run)) {
			return index;
		}
	}
	return d->nr_elems;
}

static void *lookup(const struct shim_map_desc *d, const void *key, struct shim_run *run)
{
	u32 index = hash_find(d, key, hash_key(key, d->key_size), run);
	struct elem *e;

	if (index == d->nr_elems || (percpu(d) && run->vcpu >= d->nr_vcpus))
		return 0;
	e = elem_at(d, index);
	if (!__atomic_load_n(&e->ref, __ATOMIC_RELAXED)) /* else its cache line stays shared */
		__atomic_store_n(&e->ref, 1, __ATOMIC_RELAXED);
	return hash_value(d, index, run->vcpu);
}

#define LRU_OPS \
	{ \
		.layout = hash_layout, .check = hash_check, .lookup = lookup, .update = hash_update, \
		.del = hash_delete, .sys_lookup = hash_sys_lookup, .sys_update = hash_sys_update, \
		.sys_take = hash_sys_take, .sys_next = hash_sys_next, .each = hash_each, \
		.sys_batch = hash_sys_batch, \
	}

const struct map_ops lru_hash_ops = LRU_OPS;
const struct map_ops lru_percpu_hash_ops = LRU_OPS;
