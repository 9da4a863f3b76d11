/*
 * The usual changes of the usual hash map: keys of 4 or 8 bytes, values that are nothing but bytes, one for all
 * CPUs. What map_hash.c does in general is done here for a size of keys that is constant, as long as the
 * bucket's lock is had at the first try and has what is wanted beside it: the key's element, or a spare
 * one. All else is left to it, as if nothing had been; so nothing is called here, and little saved.
 */
#include "map_hash.h"

#define ALWAYS __attribute__((always_inline)) inline

enum { HOPS = 8 }; /* elements of a chain that are looked at */

static ALWAYS void let_go(struct bucket *b, struct shim_run *run)
{
	inner_unlock(&b->lock, run->owner);
	run_holds(run, -1u);
}

/* hash_link() and the element that it leads to, for chains as they are nearly always. NULL: it is not there, or not
 * to be found here: *other. */
static ALWAYS struct elem *find(const struct shim_map_desc *d, struct bucket *b, const void *key,
				u32 hash, const u32 size, u32 **link, bool *other)
{
	u32 at;

	*link = &b->head;
	*other = false;
	at = READ_ONCE(b->head);
	for (u32 left = HOPS; at; left--) {
		struct elem *e = elem_at(d, at - 1);

		if (__builtin_expect(at > d->nr_elems || !left || READ_ONCE(e->transit), 0)) {
			*other = true;
			break;
		}
		if (READ_ONCE(e->hash) == hash && same_key(e->key, key, size))
			return e;
		*link = &e->next;
		at = READ_ONCE(e->next);
	}
	return 0;
}

/* A new key's, the bucket being locked. size: of a key. */
static ALWAYS long insert_of(const struct shim_map_desc *d, const void *key, const void *value,
			     u64 flags, struct shim_run *run, u32 hash, const u32 size)
{
	u32 *spare = spare_of(d, hash), index = READ_ONCE(*spare) - 1;
	struct bucket *b = bucket_of(d, hash);
	struct elem *e = elem_at(d, index);

	if (index >= d->nr_elems) {
		let_go(b, run);
		return hash_update_any(d, key, value, flags, run);
	}
	__atomic_store_n(&e->transit, run->owner, __ATOMIC_RELEASE);
	__atomic_store_n(spare, 0, __ATOMIC_RELEASE);
	WRITE_ONCE(e->hash, hash);
	copy_words(e->key, key, size);
	__atomic_thread_fence(__ATOMIC_RELEASE); /* still() */
	copy_words(e->key + 8, value, d->value_size);
	hash_link_in(b, e, index);
	let_go(b, run);
	return 0;
}

static __attribute__((noinline)) long insert_4(const struct shim_map_desc *d, const void *key,
					       const void *value, u64 flags, struct shim_run *run,
					       u32 hash)
{
	return insert_of(d, key, value, flags, run, hash, 4);
}

static __attribute__((noinline)) long insert_8(const struct shim_map_desc *d, const void *key,
					       const void *value, u64 flags, struct shim_run *run,
					       u32 hash)
{
	return insert_of(d, key, value, flags, run, hash, 8);
}

/* By who has the bucket locked, and found the element. */
static __attribute__((noinline)) long overwrite(const struct shim_map_desc *d, struct bucket *b,
						struct elem *e, const void *value, struct shim_run *run)
{
	copy_words(e->key + 8, value, d->value_size);
	let_go(b, run);
	return 0;
}

static ALWAYS long update_of(const struct shim_map_desc *d, const void *key, const void *value,
			     u64 flags, struct shim_run *run, const u32 size)
{
	const u32 hash = hash_key(key, size);
	struct bucket *b = bucket_of(d, hash);
	struct elem *e;
	bool other;
	u32 *link;
	u64 word;

	run_holds(run, 1);
	if (!inner_lock(&b->lock, run->owner)) {
		run_holds(run, -1u);
		return hash_update_any(d, key, value, flags, run);
	}
	e = find(d, b, key, hash, size, &link, &other);
	if (e) {
		if (flags == BPF_NOEXIST)
			goto any;
		if (d->value_size != 8)
			return overwrite(d, b, e, value, run);
		__builtin_memcpy(&word, value, 8);
		WRITE_ONCE(*(u64 *)(e->key + 8), word);
		let_go(b, run);
		return 0;
	}
	if (!other && flags != BPF_EXIST)
		return size == 4 ? insert_4(d, key, value, flags, run, hash)
				 : insert_8(d, key, value, flags, run, hash);
any:
	let_go(b, run);
	return hash_update_any(d, key, value, flags, run);
}

static ALWAYS long delete_of(const struct shim_map_desc *d, const void *key, struct shim_run *run,
			     const u32 size)
{
	const u32 hash = hash_key(key, size);
	struct bucket *b = bucket_of(d, hash);
	u32 *link, *spare, index;
	struct elem *e;
	bool other;

	run_holds(run, 1);
	if (!inner_lock(&b->lock, run->owner)) {
		run_holds(run, -1u);
		return hash_delete_any(d, key, run);
	}
	e = find(d, b, key, hash, size, &link, &other);
	spare = spare_of(d, hash);
	if (!e || !hash_keeps(d, spare)) {
		let_go(b, run);
		return hash_delete_any(d, key, run);
	}
	index = READ_ONCE(*link) - 1;
	hash_link_out(link, e, run->owner);
	hash_keep(d, spare, e, index);
	let_go(b, run);
	return 0;
}

static __attribute__((noinline)) long update_4(const struct shim_map_desc *d, const void *key,
					       const void *value, u64 flags, struct shim_run *run)
{
	return update_of(d, key, value, flags, run, 4);
}

static __attribute__((noinline)) long update_8(const struct shim_map_desc *d, const void *key,
					       const void *value, u64 flags, struct shim_run *run)
{
	return update_of(d, key, value, flags, run, 8);
}

static __attribute__((noinline)) long delete_4(const struct shim_map_desc *d, const void *key,
					       struct shim_run *run)
{
	return delete_of(d, key, run, 4);
}

static __attribute__((noinline)) long delete_8(const struct shim_map_desc *d, const void *key,
					       struct shim_run *run)
{
	return delete_of(d, key, run, 8);
}

long hash_update(const struct shim_map_desc *d, const void *key, const void *value, u64 flags,
		 struct shim_run *run)
{
	if (flags > BPF_EXIST || d->lock_at | d->timer_at)
		return hash_update_any(d, key, value, flags, run);
	if (d->key_size == 4)
		return update_4(d, key, value, flags, run);
	return d->key_size == 8 ? update_8(d, key, value, flags, run)
				: hash_update_any(d, key, value, flags, run);
}

long hash_delete(const struct shim_map_desc *d, const void *key, struct shim_run *run)
{
	if (d->key_size == 4)
		return delete_4(d, key, run);
	return d->key_size == 8 ? delete_8(d, key, run) : hash_delete_any(d, key, run);
}
