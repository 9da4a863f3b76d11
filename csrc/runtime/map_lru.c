/*
 * BPF_MAP_TYPE_LRU_HASH and LRU_PERCPU_HASH: hash maps that make room by themselves.
 *
 * As in the kernel (hashtab.c), an update wants a free element before it knows whether the key is there
 * (an LRU_PERCPU_HASH does not for BPF_EXIST), and may thereby evict another key or that very one;
 * the new element then takes the old one's place, or is not needed. Which of the two holds the key
 * afterwards nobody can tell, so a value of one word is written where it is, and its element takes
 * the new one's place on the lists. Values of an LRU_PERCPU_HASH are overwritten where they are.
 * map_lru_list.c says what goes.
 */
#include "map_lru_cpu.h"

static inline void set_used(struct elem *e)
{
	if (!READ_ONCE(e->ref)) /* else its cache line stays shared */
		WRITE_ONCE(e->ref, 1);
}

static void *lookup(const struct shim_map_desc *d, const void *key, struct shim_run *run)
{
	u32 index = hash_find(d, key, hash_key(key, d->key_size), run);
	struct elem *e;

	if (index == d->nr_elems || (percpu(d) && run->vcpu >= d->nr_vcpus))
		return 0;
	e = elem_at(d, index);
	set_used(e);
	return hash_value(d, index, run->vcpu);
}

/* A value that no reader finds half written. */
static bool one_word(const struct shim_map_desc *d)
{
	return d->value_size <= 8 && !(d->value_size & (d->value_size - 1)) && !d->lock_at &&
	       !d->timer_at;
}

#define ALWAYS __attribute__((always_inline)) inline

/* Over the value of a key that is there; false: another element must take its place. */
static ALWAYS bool overwrite(struct lru *l, const struct shim_map_desc *d, u32 index,
			     const struct source *from, const bool own)
{
	if (percpu(d))
		hash_write(d, index, from, false, l->run);
	else if (one_word(d) && (own ? own_renew(l, index) : common_renew(l, index)))
		copy_words(hash_value(d, index, 0), from->value, d->value_size);
	else
		return false;
	set_used(elem_at(d, index));
	return true;
}

/* One store links the new element and unlinks the old one: *gone. link: to that, or NULL. */
static ALWAYS long place(struct lru *l, const struct shim_map_desc *d, struct bucket *b, u32 *link,
			 const void *key, u32 hash, const struct source *from, u32 *gone,
			 const bool own)
{
	u32 index = own ? own_take(l) : common_take(l);
	struct elem *e, *old;

	if (index >= d->nr_elems)
		return -ENOMEM;
	e = hash_fill(d, index, key, hash, from, l->run);
	WRITE_ONCE(e->ref, link ? 1 : 0);
	if (link) {
		*gone = *link - 1;
		old = elem_at(d, *gone);
		__atomic_store_n(&e->next, READ_ONCE(old->next), __ATOMIC_RELAXED);
		__atomic_store_n(&old->transit, l->run->owner, __ATOMIC_RELEASE);
	} else {
		link = &b->head;
		__atomic_store_n(&e->next, *link, __ATOMIC_RELAXED);
	}
	__atomic_store_n(link, index + 1, __ATOMIC_RELEASE);
	__atomic_store_n(&e->transit, 0, __ATOMIC_RELEASE);
	return 0;
}

static ALWAYS long put(struct lru *l, const struct shim_map_desc *d, const void *key, u32 hash,
		       const struct source *from, u64 flags, u32 *gone, const bool own)
{
	struct bucket *b = bucket_of(d, hash);
	long ret = run_lock(&b->lock, l->run);
	u32 *link;

	if (ret < 0)
		return ret;
	link = hash_link(d, b, key, hash);
	if (link && flags == BPF_NOEXIST)
		ret = -EEXIST;
	else if (!link && flags == BPF_EXIST)
		ret = -ENOENT;
	else if (link && overwrite(l, d, *link - 1, from, own))
		ret = 0;
	else
		ret = place(l, d, b, link, key, hash, from, gone, own);
	run_unlock(&b->lock, l->run);
	return ret;
}

static ALWAYS long update_with(const struct shim_map_desc *d, const void *key,
			       const struct source *from, u64 flags, struct shim_run *run,
			       const bool own)
{
	u32 hash = hash_key(key, d->key_size), gone = d->nr_elems;
	struct lru l;
	long ret;

	if (flags > BPF_EXIST || (percpu(d) && !from->all && run->vcpu >= d->nr_vcpus))
		return -EINVAL;
	if (percpu(d) && flags == BPF_EXIST) {
		lru_open(&l, d, 0, run);
		return put(&l, d, key, hash, from, flags, &gone, own);
	}
	__builtin_prefetch(bucket_of(d, hash), 1);
	lru_open(&l, d, lru_cpu(d, run), run);
	ret = lru_lock(&l);
	if (ret >= 0)
		ret = own ? own_ready(&l) : common_ready(&l);
	if (ret < 0)
		return ret;
	ret = put(&l, d, key, hash, from, flags, &gone, own);
	lru_end(&l, gone);
	return ret;
}

static long update_own(const struct shim_map_desc *d, const void *key, const struct source *from,
		       u64 flags, struct shim_run *run)
{
	return update_with(d, key, from, flags, run, true);
}

static __attribute__((noinline)) long update_any(const struct shim_map_desc *d, const void *key,
						 const void *value, u64 flags, bool all,
						 struct shim_run *run)
{
	const struct source from = { value, all, false };

	return own_lists(d) ? update_own(d, key, &from, flags, run)
			    : update_with(d, key, &from, flags, run, false);
}

long lru_update_any(const struct shim_map_desc *d, const void *key, const void *value,
		    struct shim_run *run)
{
	return update_any(d, key, value, 0, false, run);
}

static long update(const struct shim_map_desc *d, const void *key, const void *value, u64 flags,
		   struct shim_run *run)
{
	return flags ? update_any(d, key, value, flags, false, run)
		     : lru_update_plain(d, key, value, run);
}

static long sys_update(const struct shim_map_desc *d, const void *key, const void *value, u64 flags,
		       struct shim_run *run)
{
	return flags || percpu(d) ? update_any(d, key, value, flags, percpu(d), run)
				  : lru_update_plain(d, key, value, run);
}

#define LRU_OPS \
	{ \
		.layout = hash_layout, .format = lru_format, .check = hash_check, .lookup = lookup, \
		.update = update, .del = hash_delete_any, .sys_lookup = hash_sys_lookup, \
		.sys_update = sys_update, .sys_take = hash_sys_take, .sys_next = hash_sys_next, \
		.each = hash_each, .count = hash_count, .sys_batch = hash_sys_batch, \
	}

const struct map_ops lru_hash_ops = LRU_OPS;
const struct map_ops lru_percpu_hash_ops = LRU_OPS;
