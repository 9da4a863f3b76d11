/* Walking a hash map: next key, and batches of whole buckets. Source: kernel/bpf/hashtab.c. */
#include "map_hash.h"

enum { RESTARTS = 16 };

/* The key of an element that is in a chain of 'hash'. False: it went while it was read. */
static bool key_of(const struct shim_map_desc *d, u32 index, u32 hash, void *key)
{
	struct elem *e = elem_at(d, index);
	u32 before = READ_ONCE(e->hash);

	copy_out(key, e->key, d->key_size);
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	return !((before ^ hash) & d->bucket_mask) && READ_ONCE(e->hash) == before &&
	       READ_ONCE(e->transit) != ELEM_FREE;
}

/* First key of the buckets from 'first' on. */
static long first_key(const struct shim_map_desc *d, u64 first, void *next)
{
	for (u64 i = first; i <= d->bucket_mask; i++) {
		struct bucket *b = bucket_of(d, (u32)i);
		u32 at;

		for (u32 tries = 0; tries < RESTARTS; tries++) {
			at = __atomic_load_n(&b->head, __ATOMIC_ACQUIRE);
			if (!at || at > d->nr_elems)
				break;
			if (key_of(d, at - 1, (u32)i, next))
				return 0;
		}
	}
	return -ENOENT;
}

/* The key behind the element's in its chain. False: the chain changed under our feet. */
static bool next_in_chain(const struct shim_map_desc *d, u32 index, u32 hash, void *next, bool *end)
{
	struct elem *e = elem_at(d, index);
	u32 at = __atomic_load_n(&e->next, __ATOMIC_ACQUIRE);

	*end = !at;
	if (at > d->nr_elems || (at && !key_of(d, at - 1, hash, next)))
		return false;
	return READ_ONCE(e->hash) == hash && READ_ONCE(e->transit) != ELEM_FREE;
}

long hash_sys_next(const struct shim_map_desc *d, const void *key, void *next, struct shim_run *run)
{
	u32 hash, index;
	bool end;

	if (!key)
		return first_key(d, 0, next);
	hash = hash_key(key, d->key_size);
	for (u32 i = 0; i < RESTARTS; i++) {
		index = hash_find(d, key, hash, run);
		if (index == d->nr_elems)
			return first_key(d, 0, next);
		if (!next_in_chain(d, index, hash, next, &end))
			continue;
		return end ? first_key(d, (u64)(hash & d->bucket_mask) + 1, next) : 0;
	}
	return first_key(d, 0, next);
}

static u32 chain_length(const struct shim_map_desc *d, u32 at)
{
	u32 n = 0;

	for (; at && at <= d->nr_elems && n <= d->nr_elems; n++)
		at = READ_ONCE(elem_at(d, at - 1)->next);
	return n;
}

static u64 value_bytes(const struct shim_map_desc *d)
{
	return percpu(d) ? round_up(d->value_size, 8) * d->nr_vcpus : d->value_size;
}

/* Where a batch puts what it finds. */
struct out {
	u8 *keys, *values;
	u32 room;
	bool unlink;
	u64 flags;
};

/* A locked bucket's elements to keys and values. unlink: they are in our hand, a list from *gone. */
static long copy_bucket(const struct shim_map_desc *d, struct bucket *b, struct out *o, u32 *gone,
			struct shim_run *run)
{
	u32 at = b->head, n = chain_length(d, at);
	u64 size = value_bytes(d);
	long err = n > o->room ? -ENOSPC : 0;

	if (n > d->nr_elems)
		return -EBUSY; /* a circle */
	for (u32 i = 0; !err && i < n && at && at <= d->nr_elems; i++) {
		struct elem *e = elem_at(d, at - 1);
		u32 next = READ_ONCE(e->next);

		copy_out(o->keys, e->key, d->key_size);
		err = hash_read(d, at - 1, o->values, o->flags, run);
		o->keys += d->key_size;
		o->values += size;
		o->room--;
		if (!err && o->unlink) {
			__atomic_store_n(&e->transit, run->owner, __ATOMIC_RELEASE);
			__atomic_store_n(&b->head, next, __ATOMIC_RELEASE);
			WRITE_ONCE(e->next, *gone);
			*gone = at;
		}
		at = next;
	}
	return err;
}

/* -ENOSPC: they do not fit. */
static long batch_bucket(const struct shim_map_desc *d, struct bucket *b, struct out *o,
			 struct shim_run *run)
{
	u32 gone = 0;
	long err;

	if (!__atomic_load_n(&b->head, __ATOMIC_ACQUIRE))
		return 0;
	err = run_lock(&b->lock, run);
	if (err < 0)
		return err;
	err = copy_bucket(d, b, o, &gone, run);
	run_unlock(&b->lock, run);
	for (u32 n = 0; gone && gone <= d->nr_elems && n <= d->nr_elems; n++) {
		u32 at = gone;

		gone = READ_ONCE(elem_at(d, at - 1)->next);
		hash_push(d, at - 1, run);
	}
	return err;
}

/* __htab_map_lookup_and_delete_batch(): positions are buckets. */
long hash_sys_batch(const struct shim_map_desc *d, const void *in_batch, void *out_batch, void *keys,
		    void *values, u32 *count, u64 flags, u32 unlink, struct shim_run *run)
{
	struct out o = { keys, values, *count, unlink, flags };
	u32 first = 0, room = *count;
	u64 at;
	long err = 0;

	*count = 0;
	if (flags & ~(u64)BPF_F_LOCK || (flags && !d->lock_at))
		return -EINVAL;
	if (in_batch)
		memcpy(&first, in_batch, sizeof(first));
	memcpy(out_batch, &first, sizeof(first));
	if (first > d->bucket_mask)
		return -ENOENT;
	for (at = first; at <= d->bucket_mask && !err; at += !err)
		err = batch_bucket(d, bucket_of(d, (u32)at), &o, run);
	if (err == -ENOSPC && o.room != room)
		err = 0;
	else if (!err)
		err = -ENOENT;
	first = (u32)at;
	memcpy(out_batch, &first, sizeof(first));
	*count = room - o.room;
	return err;
}

enum { SNAPSHOT = 64 }; /* elements of a chain that are walked at a time */

/* The element is in a chain of bucket b now. */
static bool is_in(const struct shim_map_desc *d, u32 at, u32 b)
{
	const struct elem *e = elem_at(d, at - 1);

	return !__atomic_load_n(&e->transit, __ATOMIC_ACQUIRE) && (e->hash & d->bucket_mask) == b;
}

/* Indices + 1 of the chain's elements from at on; how many. */
static u32 snapshot(const struct shim_map_desc *d, u32 at, u32 b, u32 *list)
{
	u32 n = 0;

	while (at && at <= d->nr_elems && n < SNAPSHOT && is_in(d, at, b)) {
		list[n++] = at;
		at = __atomic_load_n(&elem_at(d, at - 1)->next, __ATOMIC_ACQUIRE);
	}
	return n;
}

/* What fn does to the chain (it may delete the very element) does not disturb the walk: indices are
 * taken beforehand, and looked at again. A longer chain goes on behind the last one, if that is
 * still there. True: fn said stop. */
static bool each_in_bucket(const struct shim_map_desc *d, u32 b, u64 fn, u64 ctx, u64 *done,
			   struct shim_run *run)
{
	u32 at = __atomic_load_n(&bucket_of(d, b)->head, __ATOMIC_ACQUIRE), list[SNAPSHOT], n;

	do {
		n = snapshot(d, at, b, list);
		for (u32 i = 0; i < n; i++) {
			if (!is_in(d, list[i], b))
				continue;
			++*done;
			if (shim_callback(fn, run, (u64)d, (u64)elem_at(d, list[i] - 1)->key,
					  (u64)hash_value(d, list[i] - 1, run->vcpu), ctx))
				return true;
		}
		if (n == SNAPSHOT && is_in(d, list[n - 1], b))
			at = __atomic_load_n(&elem_at(d, list[n - 1] - 1)->next, __ATOMIC_ACQUIRE);
	} while (n == SNAPSHOT && *done <= d->nr_elems && is_in(d, list[n - 1], b));
	return false;
}

/* bpf_for_each_hash_elem() */
long hash_each(const struct shim_map_desc *d, u64 fn, u64 ctx, struct shim_run *run)
{
	u64 done = 0;

	if (percpu(d) && run->vcpu >= d->nr_vcpus)
		return -EINVAL;
	for (u64 b = 0; b <= d->bucket_mask; b++)
		if (each_in_bucket(d, (u32)b, fn, ctx, &done, run))
			break;
	return (long)done;
}

u64 hash_count(const struct shim_map_desc *d)
{
	u64 n = 0;

	for (u64 b = 0; b <= d->bucket_mask; b++) {
		u32 at = __atomic_load_n(&bucket_of(d, (u32)b)->head, __ATOMIC_ACQUIRE);

		for (; at && at <= d->nr_elems && n < d->nr_elems && is_in(d, at, (u32)b); n++)
			at = __atomic_load_n(&elem_at(d, at - 1)->next, __ATOMIC_ACQUIRE);
	}
	return n;
}

long hash_key_of(const struct shim_map_desc *d, u64 off, u64 *key)
{
	u64 index = (off - d->elem_off) / d->stride;
	struct elem *e;

	if (off < d->elem_off || index >= d->nr_elems)
		return -ENOENT;
	e = elem_at(d, (u32)index);
	*key = (u64)e->key;
	return __atomic_load_n(&e->transit, __ATOMIC_ACQUIRE) ? -ENOENT : 0;
}
