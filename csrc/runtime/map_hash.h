/* Inside the hash maps, plain and LRU: layout and what their files use of each other. */
#ifndef SHIM_MAP_HASH_H
#define SHIM_MAP_HASH_H

#include <stddef.h>

#include "runtime.h"

struct bucket {
	u32 lock;
	u32 head; /* index + 1 of the first element, 0: none */
};

struct elem {
	u32 next; /* of the chain or of the free list: index + 1 */
	u32 hash;
	u32 transit; /* 0: in a chain; else map_hash_free.c's */
	u32 ref; /* LRU: it was used since its lists were last looked through */
	u8 key[];
};

/* Of transit: on the free list; kept by its bucket. No owner words: slot 0 is never used. */
enum { ELEM_FREE = 1, ELEM_SPARE = 2 };

static inline bool percpu(const struct shim_map_desc *d)
{
	return d->type == BPF_MAP_TYPE_PERCPU_HASH || d->type == BPF_MAP_TYPE_LRU_PERCPU_HASH;
}

static inline bool is_lru(const struct shim_map_desc *d)
{
	return d->type == BPF_MAP_TYPE_LRU_HASH || d->type == BPF_MAP_TYPE_LRU_PERCPU_HASH;
}

static inline struct elem *elem_at(const struct shim_map_desc *d, u32 index)
{
	return desc_at(d, d->elem_off + (u64)index * d->stride);
}

static inline struct bucket *bucket_of(const struct shim_map_desc *d, u32 hash)
{
	return (struct bucket *)desc_at(d, d->bucket_off) + (hash & d->bucket_mask);
}

/* Of plain hash maps, under the bucket's lock: index + 1 of the free element that a bucket keeps for its next
 * key; 0: none. Behind the buckets. */
static inline u32 *spare_of(const struct shim_map_desc *d, u32 hash)
{
	u32 *first = (u32 *)((struct bucket *)desc_at(d, d->bucket_off) + d->bucket_mask + 1);

	return first + (hash & d->bucket_mask);
}

/* Where a CPU's values of all elements lie together. */
static inline u64 cpu_values(const struct shim_map_desc *d, u32 cpu)
{
	u64 all = (u64)d->nr_elems * d->stride;

	return d->elem_off + all + (u64)cpu * d->cpu_slots * round_up(d->value_size, 8);
}

/* From an element's value of one CPU to that of the next. */
static inline u64 cpu_apart(const struct shim_map_desc *d)
{
	return d->cpu_slots * round_up(d->value_size, 8);
}

static inline void *hash_value(const struct shim_map_desc *d, u32 index, u32 cpu)
{
	if (!percpu(d))
		return elem_at(d, index)->key + round_up(d->key_size, 8);
	return desc_at(d, cpu_values(d, cpu) + index * round_up(d->value_size, 8));
}

u32 hash_bytes(const u8 *key, u32 size);

/* As hash_bytes() has it. */
static inline u32 hash_key(const void *key, u32 size)
{
	u64 h = size * 0x9e3779b97f4a7c15ull, w;
	u32 half;

	if (size == 4) {
		__builtin_memcpy(&half, key, 4);
		h ^= half;
	} else if (size == 8) {
		__builtin_memcpy(&w, key, 8);
		h = (h ^ w) * 0xff51afd7ed558ccdull;
		h ^= h >> 32;
	} else {
		return hash_bytes(key, size);
	}
	h *= 0xc4ceb9fe1a85ec53ull;
	return (u32)(h ^ h >> 32);
}

/* at: a key in the map, which may change while it is looked at. */
static inline bool same_key(const u8 *at, const u8 *key, u32 size)
{
	u64 x;
	u32 w;

	for (; size >= 8; size -= 8, at += 8, key += 8) {
		__builtin_memcpy(&x, key, 8);
		if (READ_ONCE(*(const u64 *)at) != x)
			return false;
	}
	if (size >= 4) {
		__builtin_memcpy(&w, key, 4);
		if (READ_ONCE(*(const u32 *)at) != w)
			return false;
		size -= 4;
		at += 4;
		key += 4;
	}
	for (; size; size--)
		if (READ_ONCE(at[size - 1]) != key[size - 1])
			return false;
	return true;
}

/* Under the bucket's lock: the link that leads to the key's element, *link being its index + 1. NULL: it
 * is not there. */
static inline u32 *hash_link(const struct shim_map_desc *d, struct bucket *b, const void *key, u32 hash)
{
	u32 *link = &b->head;

	for (u32 n = 0; n <= d->nr_elems; n++) {
		u32 at = READ_ONCE(*link);
		struct elem *e;

		if (at - 1 >= d->nr_elems)
			break;
		e = elem_at(d, at - 1);
		/* somebody died between marking and unlinking it, or after linking */
		if (__builtin_expect(READ_ONCE(e->transit), 0))
			__atomic_store_n(&e->transit, 0, __ATOMIC_RELEASE);
		if (READ_ONCE(e->hash) == hash && same_key(e->key, key, d->key_size))
			return link;
		link = &e->next;
	}
	return 0;
}

/* An element in a run's hand, complete, gets into its chain; one of its chain into the hand of an owner. */
static inline void hash_link_in(struct bucket *b, struct elem *e, u32 index)
{
	__atomic_store_n(&e->next, b->head, __ATOMIC_RELAXED);
	__atomic_store_n(&b->head, index + 1, __ATOMIC_RELEASE);
	__atomic_store_n(&e->transit, 0, __ATOMIC_RELEASE);
}

static inline void hash_link_out(u32 *link, struct elem *e, u32 owner)
{
	__atomic_store_n(&e->transit, owner, __ATOMIC_RELEASE);
	__atomic_store_n(link, READ_ONCE(e->next), __ATOMIC_RELEASE);
}

/* What a value is written from. all: one value for each CPU (system calls). */
struct source {
	const u8 *value;
	bool all, locked;
};

/* Creation: map_hash_layout.c; lookup by a program, change: map_hash.c, for all four types. */
long hash_layout(struct shim_map_hdr *hdr);
long hash_check(const struct shim_map_hdr *hdr);
void *hash_lookup(const struct shim_map_desc *d, const void *key, struct shim_run *run);
long hash_update_any(const struct shim_map_desc *d, const void *key, const void *value, u64 flags,
		     struct shim_run *run);
long hash_delete_any(const struct shim_map_desc *d, const void *key, struct shim_run *run);
/* Index of the key's element, or nr_elems. */
u32 hash_find(const struct shim_map_desc *d, const void *key, u32 hash, struct shim_run *run);
/* -EINVAL: no flags of an update. BPF_F_LOCK is for values that have a lock, so for plain hashes. */
long hash_flags(const struct shim_map_desc *d, u64 flags);

/* The element's value. fresh: it was another key's; else -EBUSY where from->locked and its lock could
 * not be had. */
long hash_write_any(const struct shim_map_desc *d, u32 index, const struct source *from, bool fresh,
		    struct shim_run *run);

static inline long hash_write(const struct shim_map_desc *d, u32 index, const struct source *from,
			      bool fresh, struct shim_run *run)
{
	if (percpu(d) || d->lock_at | d->timer_at)
		return hash_write_any(d, index, from, fresh, run);
	copy_words(hash_value(d, index, 0), from->value, d->value_size);
	return 0;
}

/* Key and value of an element in this run's hand. */
static __attribute__((always_inline)) inline struct elem *hash_fill(const struct shim_map_desc *d,
								    u32 index, const void *key,
								    u32 hash, const struct source *from,
								    struct shim_run *run)
{
	struct elem *e = elem_at(d, index);
	u32 word;

	WRITE_ONCE(e->hash, hash);
	if (d->key_size == 4) {
		__builtin_memcpy(&word, key, 4);
		WRITE_ONCE(*(u32 *)e->key, word);
	} else {
		copy_words(e->key, key, d->key_size);
	}
	__atomic_thread_fence(__ATOMIC_RELEASE); /* still() */
	if (percpu(d) || d->lock_at | d->timer_at)
		hash_write_any(d, index, from, true, run);
	else
		copy_words(e->key + round_up(d->key_size, 8), from->value, d->value_size);
	return e;
}

/* Under the lock of the element's bucket: out of its chain, into this run's hand. False: it was in
 * no chain. */
bool hash_unlink(const struct shim_map_desc *d, u32 index, struct shim_run *run);

/* Values as system calls see them, of all CPUs where each has its own: read:
 * -EBUSY where `flags` has BPF_F_LOCK and the element's lock could not be had. */
long hash_read(const struct shim_map_desc *d, u32 index, void *value, u64 flags, struct shim_run *run);
long hash_sys_lookup(const struct shim_map_desc *d, const void *key, void *value, u64 flags,
		     struct shim_run *run);
long hash_sys_update(const struct shim_map_desc *d, const void *key, const void *value, u64 flags,
		     struct shim_run *run);
long hash_sys_take(const struct shim_map_desc *d, const void *key, void *value, u64 flags,
		   struct shim_run *run);

/* map_hash_free.c, at the start of a plain hash map's file: which elements are free. */
struct hash_free {
	u32 lock;
	u32 head; /* index + 1 of the first free element, 0: none */
	u32 fresh; /* elements never used begin here */
	u32 hand;
	u32 grown; /* elements from here on have no memory yet */
	u32 full; /* and was so the last time too */
	u32 listed; /* how many are on the list */
	u32 bucket; /* where spares are looked for next */
	u32 pad[8];
	/* seldom written, of another line of the cache: */
	u32 scarce; /* buckets keep none */
	u32 kept; /* some may have one */
	u32 ask; /* buckets, since they keep none, that may have one of before */
};
enum { FREE_SIZE = 128 };
SHIM_ASSERT(sizeof(struct hash_free) <= FREE_SIZE && offsetof(struct hash_free, scarce) == 64);

/* An element in this run's hand (its index), and back again. Not under a bucket's lock. -E2BIG: none is
 * free; -ENOMEM: no memory, or (LRU) none could be evicted; -EBUSY. */
long hash_pop(const struct shim_map_desc *d, struct shim_run *run);
void hash_push(const struct shim_map_desc *d, u32 index, struct shim_run *run);

/* The same for a plain hash map with the key's bucket locked, without waiting. hash_take: d->nr_elems: none is
 * at hand. hash_keep: where hash_keeps(); else it is to be pushed. */
u32 hash_take(const struct shim_map_desc *d, u32 hash, struct shim_run *run);

/* spare: the bucket's. */
static inline bool hash_keeps(const struct shim_map_desc *d, const u32 *spare)
{
	const struct hash_free *s = desc_at(d, 0);

	return !(READ_ONCE(*spare) | READ_ONCE(s->scarce));
}

static inline void hash_keep(const struct shim_map_desc *d, u32 *spare, struct elem *e, u32 index)
{
	struct hash_free *s = desc_at(d, 0);

	if (!READ_ONCE(s->kept))
		WRITE_ONCE(s->kept, 1);
	__atomic_store_n(spare, index + 1, __ATOMIC_RELEASE);
	__atomic_store_n(&e->transit, ELEM_SPARE, __ATOMIC_RELEASE);
}

/* With the free list locked: an element in the hand of the dead is back in its chain or with its bucket, or
 * in ours (true). */
bool hash_settle(const struct shim_map_desc *d, u32 index, struct shim_run *run);

/* map_lru_free.c: hash_push of an LRU map. */
void lru_free(const struct shim_map_desc *d, u32 index, struct shim_run *run);

/* map_lru_list.c: bytes of what a map has for its CPUs, and of its lists; multiples of 64. */
u64 lru_state_size(u32 elems, u32 cpus, u32 map_flags);
u64 lru_nodes_size(u32 elems, u32 cpus, u32 map_flags);

/* map_hash_iter.c */
long hash_sys_next(const struct shim_map_desc *d, const void *key, void *next, struct shim_run *run);
long hash_each(const struct shim_map_desc *d, u64 fn, u64 ctx, struct shim_run *run);
u64 hash_count(const struct shim_map_desc *d);
long hash_sys_batch(const struct shim_map_desc *d, const void *in_batch, void *out_batch, void *keys,
		    void *values, u32 *count, u64 flags, u32 unlink, struct shim_run *run);

#endif
