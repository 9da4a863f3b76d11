/*
 * Maps whose values are objects: PROG_ARRAY, ARRAY_OF_MAPS, HASH_OF_MAPS. A value is the object's id,
 * 0 for none; struct shim_objects says what it stands for in this process. Only the backend changes
 * them, after it has put the object into every process that has the map, so one store is enough: a
 * program finds what was there before or what is there now.
 *
 * Source: kernel/bpf/arraymap.c (fd_array_map_*), kernel/bpf/hashtab.c (htab_of_map_*).
 */
#include "runtime.h"

enum { MAX_TAIL_CALLS = 33, ARRAY_FLAGS = BPF_F_NUMA_NODE | BPF_F_RDONLY | BPF_F_WRONLY };

/* Address of an object here; 0: it is not here. */
static u64 find(const struct shim_map_desc *d, u64 kind, u32 id)
{
	const u64 *word = (const u64 *)d->objects;
	const struct shim_objects *table;
	u64 key = kind << 32 | id;
	u32 at = id * 0x9e3779b1u;

	table = word ? (const struct shim_objects *)__atomic_load_n(word, __ATOMIC_ACQUIRE) : 0;
	if (!table || !id)
		return 0;
	for (u32 n = 0; n < table->nr; n++, at++) {
		const struct shim_object *o = &table->at[at & (table->nr - 1)];
		u64 there = __atomic_load_n(&o->key, __ATOMIC_ACQUIRE);

		if (there == key)
			return __atomic_load_n(&o->addr, __ATOMIC_RELAXED);
		if (!there)
			break;
	}
	return 0;
}

static u32 *slot(const struct shim_map_desc *d, const void *key)
{
	u32 index = *(const u32 *)key;

	return index < d->max_entries ? desc_at(d, (u64)index * d->stride) : 0;
}

/* arrays */

static long layout(struct shim_map_hdr *hdr)
{
	long err = array_alloc_check(hdr, ARRAY_FLAGS);

	if (err || hdr->value_size != 4)
		return -EINVAL;
	err = array_place(hdr, 1);
	hdr->mmap_size = 0;
	return err;
}

static long check(const struct shim_map_hdr *hdr)
{
	struct shim_map_hdr want = *hdr;

	if (layout(&want) || want.stride != hdr->stride || want.file_size != hdr->file_size)
		return -EINVAL;
	return hdr->mmap_size ? -EINVAL : 0;
}

u64 prog_array_entry(const struct shim_map_desc *d, u32 index, struct shim_run *run)
{
	const u32 *s = slot(d, &index);
	u64 entry;

	if (!s || run->tail_calls >= MAX_TAIL_CALLS)
		return 0;
	entry = find(d, SHIM_OBJECT_PROG, __atomic_load_n(s, __ATOMIC_ACQUIRE));
	if (entry) /* empty slots do not count */
		run->tail_calls++;
	return entry;
}

static void *lookup(const struct shim_map_desc *d, const void *key, struct shim_run *run)
{
	const u32 *s = slot(d, key);

	(void)run;
	return s ? (void *)find(d, SHIM_OBJECT_MAP, __atomic_load_n(s, __ATOMIC_ACQUIRE)) : 0;
}

static long sys_lookup(const struct shim_map_desc *d, const void *key, void *value, u64 flags,
		       struct shim_run *run)
{
	const u32 *s = slot(d, key);
	u32 id = s ? __atomic_load_n(s, __ATOMIC_ACQUIRE) : 0;

	(void)flags, (void)run;
	memcpy(value, &id, 4);
	return id ? 0 : -ENOENT;
}

static long put(const struct shim_map_desc *d, const void *key, const void *value, u64 flags,
		struct shim_run *run)
{
	u32 *s = slot(d, key);

	(void)run;
	if (flags)
		return -EINVAL;
	if (!s)
		return -E2BIG;
	__atomic_store_n(s, *(const u32 *)value, __ATOMIC_RELEASE);
	return 0;
}

static long del(const struct shim_map_desc *d, const void *key, struct shim_run *run)
{
	u32 *s = slot(d, key);

	(void)run;
	if (!s)
		return -E2BIG;
	return __atomic_exchange_n(s, 0, __ATOMIC_ACQ_REL) ? 0 : -ENOENT;
}

const struct map_ops prog_array_ops = {
	.layout = layout,
	.check = check,
	.del = del,
	.sys_lookup = sys_lookup,
	.sys_update = put,
	.sys_next = array_sys_next,
};

const struct map_ops array_of_maps_ops = {
	.layout = layout,
	.check = check,
	.lookup = lookup,
	.del = del,
	.sys_lookup = sys_lookup,
	.sys_update = put,
	.sys_next = array_sys_next,
	.sys_batch = sys_batch,
};

/* HASH_OF_MAPS: a hash of ids. */

static long hash_layout(struct shim_map_hdr *hdr)
{
	long err;

	if (hdr->value_size != 4)
		return -EINVAL;
	hdr->type = BPF_MAP_TYPE_HASH;
	err = hash_ops.layout(hdr);
	hdr->type = BPF_MAP_TYPE_HASH_OF_MAPS;
	return err;
}

static long hash_format(void *base, const struct shim_map_hdr *hdr)
{
	struct shim_map_hdr plain = *hdr;

	plain.type = BPF_MAP_TYPE_HASH;
	return hash_ops.format ? hash_ops.format(base, &plain) : 0;
}

static long hash_check(const struct shim_map_hdr *hdr)
{
	struct shim_map_hdr plain = *hdr;

	plain.type = BPF_MAP_TYPE_HASH;
	return hdr->value_size == 4 ? hash_ops.check(&plain) : -EINVAL;
}

static void *hash_lookup(const struct shim_map_desc *d, const void *key, struct shim_run *run)
{
	const u32 *id = hash_ops.lookup(d, key, run);

	return id ? (void *)find(d, SHIM_OBJECT_MAP, __atomic_load_n(id, __ATOMIC_ACQUIRE)) : 0;
}

/* An element that exists changes by one store; nobody else adds or removes any meanwhile. */
static long hash_put(const struct shim_map_desc *d, const void *key, const void *value, u64 flags,
		     struct shim_run *run)
{
	u32 *id;

	if (flags > BPF_EXIST)
		return -EINVAL;
	id = hash_ops.lookup(d, key, run);
	if (!id || flags == BPF_NOEXIST)
		return hash_ops.sys_update(d, key, value, flags, run);
	__atomic_store_n(id, *(const u32 *)value, __ATOMIC_RELEASE);
	return 0;
}

static long hash_del(const struct shim_map_desc *d, const void *key, struct shim_run *run)
{
	return hash_ops.del(d, key, run);
}

static long hash_read_id(const struct shim_map_desc *d, const void *key, void *value, u64 flags,
			 struct shim_run *run)
{
	return hash_ops.sys_lookup(d, key, value, flags, run);
}

static long hash_next(const struct shim_map_desc *d, const void *key, void *next, struct shim_run *run)
{
	return hash_ops.sys_next(d, key, next, run);
}

static long hash_batch(const struct shim_map_desc *d, const void *in_batch, void *out_batch, void *keys,
		       void *values, u32 *count, u64 flags, u32 unlink, struct shim_run *run)
{
	return hash_ops.sys_batch(d, in_batch, out_batch, keys, values, count, flags, unlink, run);
}

static u64 hash_count(const struct shim_map_desc *d)
{
	return hash_ops.count(d);
}

const struct map_ops hash_of_maps_ops = {
	.layout = hash_layout,
	.format = hash_format,
	.check = hash_check,
	.lookup = hash_lookup,
	.del = hash_del,
	.sys_lookup = hash_read_id,
	.sys_update = hash_put,
	.sys_next = hash_next,
	.count = hash_count,
	.sys_batch = hash_batch,
};
