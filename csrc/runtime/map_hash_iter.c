/* Walking a hash map: next key, and batches of whole buckets. Source: kernel/bpf/hashtab.c. */
#include "map_hash.h"

/* First key of the buckets from 'first' on. */
static long first_key(const struct shim_map_desc *d, u64 first, void *next)
{
	for (u64 i = first; i <= d->bucket_mask; i++) {
		u32 at = __atomic_load_n(&bucket_of(d, (u32)i)->head, __ATOMIC_ACQUIRE);

		if (at && at <= d->nr_elems) {
			memcpy(next, elem_at(d, at - 1)->key, d->key_size);
			return 0;
		}
	}
	return -ENOENT;
}

long hash_sys_next(const struct shim_map_desc *d, const void *key, void *next, struct shim_run *run)
{
	u32 hash, index, at;

	if (!key)
		return first_key(d, 0, next);
	hash = hash_key(key, d->key_size);
	index = hash_find(d, key, run);
	if (index == d->nr_elems)
		return first_key(d, 0, next);
	at = __atomic_load_n(&elem_at(d, index)->next, __ATOMIC_ACQUIRE);
	if (at && at <= d->nr_elems) {
		memcpy(next, elem_at(d, at - 1)->key, d->key_size);
		return 0;
	}
	return first_key(d, (u64)(hash & d->bucket_mask) + 1, next);
}

static u32 chain_length(const struct shim_map_desc *d, u32 at)
{
	u32 n = 0;

	for (; at && at <= d->nr_elems && n <= d->nr_elems; n++)
		at = elem_at(d, at - 1)->next;
	return n;
}

/* A bucket's elements to keys and values; del: they are unlinked. -ENOSPC: they do not fit. */
static long batch_bucket(const struct shim_map_desc *d, struct bucket *b, u8 *keys, u8 *values,
			 u32 room, bool unlink, u32 *count, struct shim_run *run)
{
	u64 size = percpu(d) ? value_stride(d->value_size) * d->nr_vcpus : d->value_size;
	u32 at, n, gone = 0;
	long err;

	*count = 0;
	if (!__atomic_load_n(&b->head, __ATOMIC_ACQUIRE))
		return 0;
	err = run_lock(&b->lock, run);
	if (err < 0)
		return err;
	at = b->head;
	n = chain_length(d, at);
	err = n > room ? -ENOSPC : 0;
	for (u32 i = 0; !err && i < n; i++) {
		struct elem *e = elem_at(d, at - 1);
		u32 next = e->next;

		memcpy(keys + (u64)i * d->key_size, e->key, d->key_size);
		hash_read(d, at - 1, values + i * size);
		if (unlink) {
			__atomic_store_n(&e->transit, run->owner, __ATOMIC_RELEASE);
			__atomic_store_n(&b->head, next, __ATOMIC_RELEASE);
			e->next = gone; /* in our hand: a list of them */
			gone = at;
		}
		at = next;
	}
	run_unlock(&b->lock, run);
	while (gone) {
		at = gone;
		gone = elem_at(d, at - 1)->next;
		hash_push(d, at - 1, run);
	}
	if (!err)
		*count = n;
	return err;
}

/* __htab_map_lookup_and_delete_batch(): positions are buckets. */
long hash_sys_batch(const struct shim_map_desc *d, const u32 *in_batch, u32 *out_batch, void *keys,
		    void *values, u32 *count, u64 flags, u32 unlink, struct shim_run *run)
{
	u64 size = percpu(d) ? value_stride(d->value_size) * d->nr_vcpus : d->value_size;
	u32 room = *count, total = 0, n;
	u64 at = in_batch ? *in_batch : 0;
	long err = 0;

	*count = 0;
	if (flags)
		return -EINVAL;
	if (at > d->bucket_mask)
		return -ENOENT;
	for (; at <= d->bucket_mask; at++) {
		err = batch_bucket(d, bucket_of(d, (u32)at), (u8 *)keys + (u64)total * d->key_size,
				   (u8 *)values + total * size, room - total, unlink, &n, run);
		if (err)
			break;
		total += n;
	}
	if (err == -ENOSPC && total)
		err = 0;
	if (!err && at > d->bucket_mask)
		err = -ENOENT;
	*out_batch = (u32)at;
	*count = total;
	return err;
}
