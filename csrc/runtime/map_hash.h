/* Inside the hash maps: layout and what both files use. */
#ifndef SHIM_MAP_HASH_H
#define SHIM_MAP_HASH_H

#include "runtime.h"

struct bucket {
	u32 lock;
	u32 head; /* index + 1 of the first element, 0: none */
};

struct elem {
	u32 next; /* of the chain or of the free list: index + 1 */
	u32 hash;
	u32 transit; /* 0: in a chain; else map_hash_free.c's */
	u32 pad;
	u8 key[];
};

static inline bool percpu(const struct shim_map_desc *d)
{
	return d->type == BPF_MAP_TYPE_PERCPU_HASH;
}

static inline u64 value_stride(u32 value_size)
{
	return round_up(value_size, 8);
}

static inline struct elem *elem_at(const struct shim_map_desc *d, u32 index)
{
	return desc_at(d, d->elem_off + (u64)index * d->stride);
}

static inline struct bucket *bucket_of(const struct shim_map_desc *d, u32 hash)
{
	return (struct bucket *)desc_at(d, d->bucket_off) + (hash & d->bucket_mask);
}

u32 hash_key(const u8 *key, u32 size);
/* Index of the key's element, or nr_elems. */
u32 hash_find(const struct shim_map_desc *d, const void *key, struct shim_run *run);
/* Values as system calls see them: of all CPUs, where each has its own. */
void hash_read(const struct shim_map_desc *d, u32 index, void *value);

/* map_hash_free.c: an element in this run's hand (nr_elems: none is free), and back again. Not under
 * a bucket's lock. */
u32 hash_pop(const struct shim_map_desc *d, struct shim_run *run);
void hash_push(const struct shim_map_desc *d, u32 index, struct shim_run *run);

/* map_hash_iter.c */
long hash_sys_next(const struct shim_map_desc *d, const void *key, void *next, struct shim_run *run);
long hash_sys_batch(const struct shim_map_desc *d, const u32 *in_batch, u32 *out_batch, void *keys,
		    void *values, u32 *count, u64 flags, u32 unlink, struct shim_run *run);

#endif
