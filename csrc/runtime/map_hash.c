/*
 * Hash maps in shared memory: buckets, elements by index, no pointer. What BPF_MAP_TYPE_HASH,
 * PERCPU_HASH, LRU_HASH and LRU_PERCPU_HASH have in common.
 *
 * Lookups take no lock. A change is made under its bucket's lock: an element is complete before
 * one store links it, and one store unlinks it, so a dead owner leaves a whole chain whatever it
 * was at. map_hash_free.c says how elements come and go.
 *
 * A value that exists is overwritten in place, 8 bytes at a time, as the kernel does in arrays; its
 * preallocated hash changes elements instead. Source of errnos: kernel/bpf/hashtab.c.
 */
#include "map_hash.h"

enum { RESTARTS = 16 };

u32 hash_bytes(const u8 *key, u32 size)
{
	u64 h = size * 0x9e3779b97f4a7c15ull, w;
	u32 half;

	for (; size >= 8; size -= 8, key += 8) {
		__builtin_memcpy(&w, key, 8);
		h = (h ^ w) * 0xff51afd7ed558ccdull;
		h ^= h >> 32;
	}
	w = 0;
	if (size >= 4) {
		__builtin_memcpy(&half, key, 4);
		w = half;
		size -= 4;
		key += 4;
	}
	for (; size; size--)
		w = w << 8 | key[size - 1];
	h = (h ^ w) * 0xc4ceb9fe1a85ec53ull;
	return (u32)(h ^ h >> 32);
}

/* Under the bucket's lock: the link that leads to an element of the chain. */
static u32 *index_link(const struct shim_map_desc *d, u32 *link, u32 index)
{
	for (u32 n = 0; n <= d->nr_elems; n++) {
		u32 at = READ_ONCE(*link);

		if (at == index + 1)
			return link;
		if (at - 1 >= d->nr_elems)
			break;
		link = &elem_at(d, at - 1)->next;
	}
	return 0;
}

static u32 find_locked(const struct shim_map_desc *d, struct bucket *b, const void *key, u32 hash)
{
	u32 *link = hash_link(d, b, key, hash);

	return link ? *link - 1 : d->nr_elems;
}

/* lookup */

/* False: the chain changed under our feet. */
static bool walk(const struct shim_map_desc *d, const void *key, u32 hash, u32 *index)
{
	u32 at = __atomic_load_n(&bucket_of(d, hash)->head, __ATOMIC_ACQUIRE);

	*index = d->nr_elems;
	for (u32 n = 0; at && n <= d->nr_elems; n++) {
		struct elem *e;
		u32 next;

		if (at > d->nr_elems)
			return false;
		e = elem_at(d, at - 1);
		next = __atomic_load_n(&e->next, __ATOMIC_ACQUIRE);
		if ((READ_ONCE(e->hash) ^ hash) & d->bucket_mask || READ_ONCE(e->transit) == ELEM_FREE)
			return false;
		if (READ_ONCE(e->hash) == hash && same_key(e->key, key, d->key_size)) {
			*index = at - 1;
			return true;
		}
		at = next;
	}
	return !at;
}

u32 hash_find(const struct shim_map_desc *d, const void *key, u32 hash, struct shim_run *run)
{
	struct bucket *b = bucket_of(d, hash);
	u32 index;

	for (u32 i = 0; i < RESTARTS; i++)
		if (walk(d, key, hash, &index))
			return index;
	if (run_lock(&b->lock, run) < 0)
		return d->nr_elems;
	index = find_locked(d, b, key, hash);
	run_unlock(&b->lock, run);
	return index;
}

void *hash_lookup(const struct shim_map_desc *d, const void *key, struct shim_run *run)
{
	u32 index = hash_find(d, key, hash_key(key, d->key_size), run);

	if (index == d->nr_elems || (percpu(d) && run->vcpu >= d->nr_vcpus))
		return 0;
	return hash_value(d, index, run->vcpu);
}

/* update and delete */

/* to: the first CPU's value. */
static void write_all(const struct shim_map_desc *d, u8 *to, const u8 *from)
{
	u64 size = round_up(d->value_size, 8), apart = cpu_apart(d), word;

	for (u32 left = d->nr_vcpus; left; left--, to += apart, from += size) {
		__builtin_memcpy(&word, from, 8);
		WRITE_ONCE(*(u64 *)to, word);
		if (size > 8)
			copy_words(to + 8, from + 8, size - 8);
	}
}

long hash_write_any(const struct shim_map_desc *d, u32 index, const struct source *from, bool fresh,
		    struct shim_run *run)
{
	u64 size = round_up(d->value_size, 8), apart = cpu_apart(d);
	u8 *to = hash_value(d, index, 0);

	if (!percpu(d)) {
		if (!fresh)
			return value_write(d, to, from->value, from->locked, run);
		value_init(d, to, from->value);
		return 0;
	}
	if (from->all) {
		write_all(d, to, from->value);
		return 0;
	}
	if (!fresh) {
		copy_words(hash_value(d, index, run->vcpu), from->value, d->value_size);
		return 0;
	}
	for (u32 cpu = 0; cpu < d->nr_vcpus; cpu++, to += apart) {
		if (cpu == run->vcpu)
			copy_words(to, from->value, d->value_size);
		else
			clear_words(to, size);
	}
	return 0;
}

/* Under the bucket's lock. 1: the spare is in use; -EAGAIN: one is wanted. */
static long put(const struct shim_map_desc *d, struct bucket *b, const void *key, u32 hash,
		const struct source *from, u64 flags, u32 spare, struct shim_run *run)
{
	u32 *link = hash_link(d, b, key, hash);

	if (link)
		return flags == BPF_NOEXIST ? -EEXIST : hash_write(d, *link - 1, from, false, run);
	if (flags == BPF_EXIST)
		return -ENOENT;
	if (spare == d->nr_elems)
		spare = hash_take(d, hash, run);
	if (spare == d->nr_elems)
		return -EAGAIN;
	hash_link_in(b, hash_fill(d, spare, key, hash, from, run), spare);
	return 1;
}

/* flags without BPF_F_LOCK. An element for a new key that is not at hand is got outside of the bucket's lock,
 * before which the free list's goes. */
static long update_from(const struct shim_map_desc *d, const void *key, const struct source *from,
			u64 flags, struct shim_run *run)
{
	u32 hash = hash_key(key, d->key_size), spare = d->nr_elems;
	struct bucket *b = bucket_of(d, hash);
	long ret = 0;

	if (percpu(d) && !from->all && run->vcpu >= d->nr_vcpus)
		return -EINVAL;
	do {
		if (ret == -EAGAIN) {
			ret = hash_pop(d, run);
			if (ret < 0)
				return ret;
			spare = (u32)ret;
		}
		ret = run_lock(&b->lock, run);
		if (ret >= 0) {
			ret = put(d, b, key, hash, from, flags, spare, run);
			run_unlock(&b->lock, run);
		}
	} while (ret == -EAGAIN);
	if (spare != d->nr_elems && ret != 1)
		hash_push(d, spare, run);
	return ret > 0 ? 0 : ret;
}

long hash_flags(const struct shim_map_desc *d, u64 flags)
{
	if (flags & BPF_F_LOCK && !is_lru(d) && !percpu(d) && d->lock_at)
		flags &= ~(u64)BPF_F_LOCK;
	return flags > BPF_EXIST ? -EINVAL : 0;
}

static long update(const struct shim_map_desc *d, const void *key, const void *value, u64 flags,
		   bool all, struct shim_run *run)
{
	struct source from = { value, all, flags & BPF_F_LOCK };
	long err = hash_flags(d, flags);

	return err ? err : update_from(d, key, &from, flags & ~(u64)BPF_F_LOCK, run);
}

long hash_update_any(const struct shim_map_desc *d, const void *key, const void *value, u64 flags,
		     struct shim_run *run)
{
	return update(d, key, value, flags, false, run);
}

long hash_sys_update(const struct shim_map_desc *d, const void *key, const void *value, u64 flags,
		     struct shim_run *run)
{
	return update(d, key, value, flags, percpu(d), run);
}

bool hash_unlink(const struct shim_map_desc *d, u32 index, struct shim_run *run)
{
	struct elem *e = elem_at(d, index);
	u32 *link = &bucket_of(d, READ_ONCE(e->hash))->head;

	if (READ_ONCE(*link) != index + 1)
		link = index_link(d, link, index);

	if (link)
		hash_link_out(link, e, run->owner);
	return link;
}

/* Unlinks the key's element, its value to 'value' if that is not NULL. */
static long take(const struct shim_map_desc *d, const void *key, void *value, u64 flags,
		 struct shim_run *run)
{
	u32 hash = hash_key(key, d->key_size), index = d->nr_elems, *link;
	struct bucket *b = bucket_of(d, hash);
	long err = run_lock(&b->lock, run);
	bool kept = false;

	if (err < 0)
		return err;
	link = hash_link(d, b, key, hash);
	if (link)
		index = *link - 1;
	err = !link ? -ENOENT : value ? hash_read(d, index, value, flags, run) : 0;
	if (!err) {
		hash_link_out(link, elem_at(d, index), run->owner);
		kept = !is_lru(d) && hash_keeps(d, spare_of(d, hash));
		if (kept)
			hash_keep(d, spare_of(d, hash), elem_at(d, index), index);
	}
	run_unlock(&b->lock, run);
	if (!err && !kept)
		hash_push(d, index, run);
	return err;
}

long hash_delete_any(const struct shim_map_desc *d, const void *key, struct shim_run *run)
{
	return take(d, key, 0, 0, run);
}

/* system calls */

long hash_read(const struct shim_map_desc *d, u32 index, void *value, u64 flags, struct shim_run *run)
{
	u64 size = round_up(d->value_size, 8), apart = cpu_apart(d);
	const u8 *from = hash_value(d, index, 0);

	if (!percpu(d))
		return value_read(d, value, from, flags & BPF_F_LOCK, run);
	for (u32 left = d->nr_vcpus; left; left--, from += apart, value = (u8 *)value + size)
		copy_out(value, from, size);
	return 0;
}

long hash_sys_take(const struct shim_map_desc *d, const void *key, void *value, u64 flags,
		   struct shim_run *run)
{
	long err = hash_flags(d, flags & BPF_F_LOCK);

	return err || flags & ~(u64)BPF_F_LOCK ? -EINVAL : take(d, key, value, flags, run);
}

/* The element is still the key's: what was read of it since it was found was the key's too, for a new
 * owner writes its key before its value. */
static bool still(const struct shim_map_desc *d, u32 index, const void *key, u32 hash)
{
	struct elem *e = elem_at(d, index);

	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	return READ_ONCE(e->hash) == hash && same_key(e->key, key, d->key_size) &&
	       READ_ONCE(e->transit) != ELEM_FREE;
}

static long read_locked(const struct shim_map_desc *d, const void *key, u32 hash, void *value,
			u64 flags, struct shim_run *run)
{
	struct bucket *b = bucket_of(d, hash);
	long err = run_lock(&b->lock, run);
	u32 index;

	if (err < 0)
		return err;
	index = find_locked(d, b, key, hash);
	err = index == d->nr_elems ? -ENOENT : hash_read(d, index, value, flags, run);
	run_unlock(&b->lock, run);
	return err;
}

long hash_sys_lookup(const struct shim_map_desc *d, const void *key, void *value, u64 flags,
		     struct shim_run *run)
{
	u32 hash = hash_key(key, d->key_size), index;
	long err;

	if (flags & ~(u64)BPF_F_LOCK || hash_flags(d, flags))
		return -EINVAL;
	for (u32 i = 0; i < RESTARTS; i++) {
		index = hash_find(d, key, hash, run);
		if (index == d->nr_elems)
			return -ENOENT;
		err = hash_read(d, index, value, flags, run);
		if (err || still(d, index, key, hash))
			return err;
	}
	return read_locked(d, key, hash, value, flags, run);
}

#define HASH_OPS(update_, delete_) \
	{ \
		.layout = hash_layout, .check = hash_check, .lookup = hash_lookup, .update = update_, \
		.del = delete_, .sys_lookup = hash_sys_lookup, .sys_update = hash_sys_update, \
		.sys_take = hash_sys_take, .sys_next = hash_sys_next, .each = hash_each, \
		.count = hash_count, .sys_batch = hash_sys_batch, \
	}

const struct map_ops hash_ops = HASH_OPS(hash_update, hash_delete);
const struct map_ops percpu_hash_ops = HASH_OPS(hash_update_any, hash_delete_any);
