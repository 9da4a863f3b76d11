/*
 * BPF_MAP_TYPE_LRU_HASH and LRU_PERCPU_HASH: hash maps that make room by themselves.
 *
 * As in the kernel (hashtab.c), an update gets a new element before it knows whether the key is there
 * (an LRU_PERCPU_HASH does not for BPF_EXIST), and may thereby evict another key or that very one;
 * the new element then takes the old one's place, or goes back. Values of an LRU_PERCPU_HASH are
 * overwritten where they are. map_lru_list.c says what goes.
 */
#include "map_lru.h"

static void *lookup(const struct shim_map_desc *d, const void *key, struct shim_run *run)
{
	u32 index = hash_find(d, key, hash_key(key, d->key_size), run);
	struct elem *e;

	if (index == d->nr_elems || (percpu(d) && run->vcpu >= d->nr_vcpus))
		return 0;
	e = elem_at(d, index);
	if (!READ_ONCE(e->ref)) /* else its cache line stays shared */
		WRITE_ONCE(e->ref, 1);
	return hash_value(d, index, run->vcpu);
}

/* Under the bucket's lock, with an element in hand or (nr_elems) none: *spare is then what is to go
 * back. One store links the new element and unlinks the old one. */
static long put(const struct shim_map_desc *d, const void *key, u32 hash, const struct source *from,
		u64 flags, u32 *spare, struct shim_run *run)
{
	struct bucket *b = bucket_of(d, hash);
	u32 *link = hash_link(d, b, d->nr_elems, key, hash), index = *spare, old = d->nr_elems;
	struct elem *e, *gone;

	if (link && flags == BPF_NOEXIST)
		return -EEXIST;
	if (!link && flags == BPF_EXIST)
		return -ENOENT;
	if (link && percpu(d)) {
		WRITE_ONCE(elem_at(d, *link - 1)->ref, 1);
		return hash_write(d, *link - 1, from, false, run);
	}
	e = hash_fill(d, index, key, hash, from, run);
	if (link) {
		old = *link - 1;
		gone = elem_at(d, old);
		WRITE_ONCE(e->ref, 1);
		__atomic_store_n(&e->next, READ_ONCE(gone->next), __ATOMIC_RELAXED);
		__atomic_store_n(&gone->transit, run->owner, __ATOMIC_RELEASE);
	} else {
		link = &b->head;
		__atomic_store_n(&e->next, *link, __ATOMIC_RELAXED);
	}
	__atomic_store_n(link, index + 1, __ATOMIC_RELEASE);
	__atomic_store_n(&e->transit, 0, __ATOMIC_RELEASE);
	*spare = old;
	return 0;
}

static long put_locked(const struct shim_map_desc *d, const void *key, u32 hash,
		       const struct source *from, u64 flags, u32 *spare, struct shim_run *run)
{
	struct bucket *b = bucket_of(d, hash);
	long ret = run_lock(&b->lock, run);

	if (ret < 0)
		return ret;
	ret = put(d, key, hash, from, flags, spare, run);
	run_unlock(&b->lock, run);
	return ret;
}

/* The lists stay locked, for most updates give an element back. */
static long update_from(const struct shim_map_desc *d, const void *key, const struct source *from,
			u64 flags, struct shim_run *run)
{
	u32 hash = hash_key(key, d->key_size), spare = d->nr_elems;
	struct lru l;
	long ret;

	if (flags > BPF_EXIST || (percpu(d) && !from->all && run->vcpu >= d->nr_vcpus))
		return -EINVAL;
	if (percpu(d) && flags == BPF_EXIST)
		return put_locked(d, key, hash, from, flags, &spare, run);
	ret = lru_lock(&l, d, lru_cpu(d, run), run);
	if (ret < 0)
		return ret;
	spare = lru_pop(&l);
	ret = -ENOMEM;
	if (spare < d->nr_elems) {
		ret = put_locked(d, key, hash, from, flags, &spare, run);
		if (spare < d->nr_elems)
			lru_push(&l, spare);
	}
	lru_unlock(&l);
	return ret;
}

static long update(const struct shim_map_desc *d, const void *key, const void *value, u64 flags,
		   struct shim_run *run)
{
	const struct source from = { value, false, false };

	return update_from(d, key, &from, flags, run);
}

static long sys_update(const struct shim_map_desc *d, const void *key, const void *value, u64 flags,
		       struct shim_run *run)
{
	const struct source from = { value, percpu(d), false };

	return update_from(d, key, &from, flags, run);
}

#define LRU_OPS \
	{ \
		.layout = hash_layout, .format = lru_format, .check = hash_check, .lookup = lookup, \
		.update = update, .del = hash_delete, .sys_lookup = hash_sys_lookup, \
		.sys_update = sys_update, .sys_take = hash_sys_take, .sys_next = hash_sys_next, \
		.each = hash_each, .sys_batch = hash_sys_batch, \
	}

const struct map_ops lru_hash_ops = LRU_OPS;
const struct map_ops lru_percpu_hash_ops = LRU_OPS;
