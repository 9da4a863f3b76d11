/*
 * BPF_MAP_TYPE_HASH and PERCPU_HASH in shared memory: buckets, elements by index, no pointer.
 *
 * Lookups take no lock. A change is made under its bucket's lock: an element is complete before
 * one store links it, and one store unlinks it, so a dead owner leaves a whole chain whatever it
 * was at. map_hash_free.c says how elements come and go.
 *
 * A value that exists is overwritten in place, 8 bytes at a time, as the kernel does in arrays; its
 * preallocated hash changes elements instead. Source of errnos: kernel/bpf/hashtab.c.
 */
#include "map_hash.h"

enum {
	CREATE_FLAGS = BPF_F_NO_PREALLOC | BPF_F_NUMA_NODE | BPF_F_RDONLY | BPF_F_WRONLY |
		       BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG | BPF_F_ZERO_SEED
};
enum { MAX_BPF_STACK = 512, PCPU_MIN_UNIT_SIZE = 32768, RESTARTS = 16 };
enum { MAX_KEY_VALUE = 1 << 22 }; /* KMALLOC_MAX_SIZE: 4 MiB for key, value and element */

/* A CPU's values of all elements lie together. */
static void *value_of(const struct shim_map_desc *d, u32 index, u32 cpu)
{
	u64 size = value_stride(d->value_size);

	if (!percpu(d))
		return elem_at(d, index)->key + round_up(d->key_size, 8);
	return desc_at(d, d->elem_off + (u64)d->nr_elems * d->stride +
				  ((u64)cpu * d->nr_elems + index) * size);
}

u32 hash_key(const u8 *key, u32 size)
{
	u64 h = size * 0x9e3779b97f4a7c15ull, w;

	for (; size >= 8; size -= 8, key += 8) {
		__builtin_memcpy(&w, key, 8);
		h = (h ^ w) * 0xff51afd7ed558ccdull;
		h ^= h >> 32;
	}
	for (w = 0; size; size--)
		w = w << 8 | key[size - 1];
	h = (h ^ w) * 0xc4ceb9fe1a85ec53ull;
	return (u32)(h ^ h >> 32);
}

static bool same_key(const u8 *a, const u8 *b, u32 size)
{
	u64 x, y;

	for (; size >= 8; size -= 8, a += 8, b += 8) {
		__builtin_memcpy(&x, a, 8);
		__builtin_memcpy(&y, b, 8);
		if (x != y)
			return false;
	}
	for (; size; size--)
		if (a[size - 1] != b[size - 1])
			return false;
	return true;
}

static void copy_words(void *to, const void *from, u64 size)
{
	u64 *dst = to, w;
	const u8 *src = from;

	for (; size >= 8; size -= 8, src += 8) {
		__builtin_memcpy(&w, src, 8);
		__atomic_store_n(dst++, w, __ATOMIC_RELAXED);
	}
	if (size)
		memcpy(dst, src, size);
}

/* creation */

static u64 values_size(const struct shim_map_hdr *hdr)
{
	bool each = hdr->type == BPF_MAP_TYPE_PERCPU_HASH;

	return each ? value_stride(hdr->value_size) * hdr->max_entries * hdr->nr_vcpus : 0;
}

static long place(struct shim_map_hdr *hdr)
{
	u64 inline_value = hdr->type == BPF_MAP_TYPE_HASH ? value_stride(hdr->value_size) : 0;
	u64 buckets = 1, size;

	while (buckets < hdr->max_entries)
		buckets *= 2;
	hdr->stride = (u32)(sizeof(struct elem) + round_up(hdr->key_size, 8) + inline_value);
	hdr->nr_buckets = (u32)buckets;
	hdr->nr_elems = hdr->max_entries;
	hdr->mmap_size = 0;
	hdr->state_off = 0;
	hdr->bucket_off = 64;
	hdr->elem_off = round_up(64 + buckets * sizeof(struct bucket), 64);
	size = hdr->elem_off + (u64)hdr->stride * hdr->max_entries + values_size(hdr);
	hdr->file_size = round_up(size, SHIM_PAGE) + SHIM_PAGE;
	return 0;
}

static long layout(struct shim_map_hdr *hdr)
{
	u64 each = (u64)hdr->key_size + hdr->value_size;

	if (hdr->map_flags & ~(u32)CREATE_FLAGS)
		return -EINVAL;
	if (!hdr->max_entries || !hdr->key_size || !hdr->value_size)
		return -EINVAL;
	if (each >= MAX_KEY_VALUE - sizeof(struct elem))
		return -E2BIG;
	if (hdr->type == BPF_MAP_TYPE_PERCPU_HASH && value_stride(hdr->value_size) > PCPU_MIN_UNIT_SIZE)
		return -E2BIG;
	if (hdr->max_entries > 1u << 31)
		return -E2BIG;
	return place(hdr);
}

static long check(const struct shim_map_hdr *hdr)
{
	struct shim_map_hdr want = *hdr;

	if (layout(&want) || want.stride != hdr->stride || want.nr_buckets != hdr->nr_buckets ||
	    want.nr_elems != hdr->nr_elems || want.file_size != hdr->file_size)
		return -EINVAL;
	if (want.bucket_off != hdr->bucket_off || want.elem_off != hdr->elem_off || hdr->mmap_size ||
	    hdr->state_off)
		return -EINVAL;
	return 0;
}

/* The link that leads to the key, under the bucket's lock: *link is index + 1, or 0. */
static u32 *find_link(const struct shim_map_desc *d, struct bucket *b, const void *key, u32 hash)
{
	u32 *link = &b->head;

	for (u32 n = 0; n <= d->nr_elems; n++) {
		u32 at = *link;
		struct elem *e;

		if (!at || at > d->nr_elems)
			break;
		e = elem_at(d, at - 1);
		if (e->hash == hash && same_key(e->key, key, d->key_size))
			break;
		link = &e->next;
	}
	return link;
}

/* lookup */

static bool walk(const struct shim_map_desc *d, const void *key, u32 hash, u32 *index)
{
	u32 at = __atomic_load_n(&bucket_of(d, hash)->head, __ATOMIC_ACQUIRE);

	*index = d->nr_elems;
	for (u32 n = 0; at && n <= d->nr_elems; n++) {
		struct elem *e;

		if (at > d->nr_elems)
			return false;
		e = elem_at(d, at - 1);
		if ((e->hash ^ hash) & d->bucket_mask)
			return false; /* it was freed and used again: this chain is another's */
		if (e->hash == hash && same_key(e->key, key, d->key_size)) {
			*index = at - 1;
			return true;
		}
		at = __atomic_load_n(&e->next, __ATOMIC_ACQUIRE);
	}
	return !at;
}

u32 hash_find(const struct shim_map_desc *d, const void *key, struct shim_run *run)
{
	u32 hash = hash_key(key, d->key_size), index = d->nr_elems, *link;
	struct bucket *b = bucket_of(d, hash);

	for (u32 i = 0; i < RESTARTS; i++)
		if (walk(d, key, hash, &index))
			return index;
	if (run_lock(&b->lock, run) < 0)
		return d->nr_elems;
	link = find_link(d, b, key, hash);
	index = *link && *link <= d->nr_elems ? *link - 1 : d->nr_elems;
	run_unlock(&b->lock, run);
	return index;
}

static void *lookup(const struct shim_map_desc *d, const void *key, struct shim_run *run)
{
	u32 index = hash_find(d, key, run);

	if (index == d->nr_elems || (percpu(d) && run->vcpu >= d->nr_vcpus))
		return 0;
	return value_of(d, index, run->vcpu);
}

/* update and delete */

/* What a value is written from. all: one value for each CPU (system calls). */
struct source {
	const u8 *value;
	bool all;
};

static void write_value(const struct shim_map_desc *d, u32 index, const struct source *from, bool fresh,
			u32 vcpu)
{
	u64 size = value_stride(d->value_size);

	if (!percpu(d)) {
		copy_words(value_of(d, index, 0), from->value, d->value_size);
		return;
	}
	for (u32 cpu = 0; cpu < d->nr_vcpus; cpu++) {
		if (from->all)
			copy_words(value_of(d, index, cpu), from->value + cpu * size, size);
		else if (cpu == vcpu)
			copy_words(value_of(d, index, cpu), from->value, d->value_size);
		else if (fresh)
			memset(value_of(d, index, cpu), 0, size);
	}
}

/* Under the bucket's lock. */
static long put(const struct shim_map_desc *d, struct bucket *b, const void *key, u32 hash,
		const struct source *from, u64 flags, u32 spare, struct shim_run *run)
{
	u32 *link = find_link(d, b, key, hash);
	struct elem *e;

	if (*link) {
		if (flags == BPF_NOEXIST)
			return -EEXIST;
		write_value(d, *link - 1, from, false, run->vcpu);
		return 0;
	}
	if (flags == BPF_EXIST)
		return -ENOENT;
	if (spare == d->nr_elems)
		return -E2BIG;
	e = elem_at(d, spare);
	e->hash = hash;
	memcpy(e->key, key, d->key_size);
	write_value(d, spare, from, true, run->vcpu);
	__atomic_store_n(&e->next, b->head, __ATOMIC_RELAXED);
	__atomic_store_n(&b->head, spare + 1, __ATOMIC_RELEASE);
	__atomic_store_n(&e->transit, 0, __ATOMIC_RELEASE);
	return 1;
}

static long update_from(const struct shim_map_desc *d, const void *key, const struct source *from,
			u64 flags, struct shim_run *run)
{
	u32 hash = hash_key(key, d->key_size), spare = d->nr_elems, index = d->nr_elems;
	struct bucket *b = bucket_of(d, hash);
	long ret;

	if (flags > BPF_EXIST)
		return -EINVAL;
	if (percpu(d) && !from->all && run->vcpu >= d->nr_vcpus)
		return -EINVAL;
	if (flags != BPF_EXIST && (!walk(d, key, hash, &index) || index == d->nr_elems))
		spare = hash_pop(d, run);
	ret = run_lock(&b->lock, run);
	if (ret >= 0) {
		ret = put(d, b, key, hash, from, flags, spare, run);
		run_unlock(&b->lock, run);
	}
	if (spare != d->nr_elems && ret != 1)
		hash_push(d, spare, run);
	return ret > 0 ? 0 : ret;
}

static long update(const struct shim_map_desc *d, const void *key, const void *value, u64 flags,
		   struct shim_run *run)
{
	return update_from(d, key, &(struct source){ value, false }, flags, run);
}

static long sys_update(const struct shim_map_desc *d, const void *key, const void *value, u64 flags,
		       struct shim_run *run)
{
	return update_from(d, key, &(struct source){ value, percpu(d) }, flags, run);
}

void hash_read(const struct shim_map_desc *d, u32 index, void *value)
{
	u64 size = value_stride(d->value_size);

	if (!percpu(d)) {
		copy_words(value, value_of(d, index, 0), d->value_size);
		return;
	}
	for (u32 cpu = 0; cpu < d->nr_vcpus; cpu++)
		copy_words((u8 *)value + cpu * size, value_of(d, index, cpu), size);
}

/* Unlinks the key's element, its value to 'value' if that is not NULL. */
static long take(const struct shim_map_desc *d, const void *key, void *value, struct shim_run *run)
{
	u32 hash = hash_key(key, d->key_size), *link, at;
	struct bucket *b = bucket_of(d, hash);
	struct elem *e;
	long err = run_lock(&b->lock, run);

	if (err < 0)
		return err;
	link = find_link(d, b, key, hash);
	at = *link;
	if (at && at <= d->nr_elems) {
		e = elem_at(d, at - 1);
		if (value)
			hash_read(d, at - 1, value);
		__atomic_store_n(&e->transit, run->owner, __ATOMIC_RELEASE);
		__atomic_store_n(link, e->next, __ATOMIC_RELEASE);
	}
	run_unlock(&b->lock, run);
	if (!at || at > d->nr_elems)
		return -ENOENT;
	hash_push(d, at - 1, run);
	return 0;
}

static long del(const struct shim_map_desc *d, const void *key, struct shim_run *run)
{
	return take(d, key, 0, run);
}

static long sys_take(const struct shim_map_desc *d, const void *key, void *value, u64 flags,
		     struct shim_run *run)
{
	return flags ? -EINVAL : take(d, key, value, run);
}

static long sys_lookup(const struct shim_map_desc *d, const void *key, void *value, u64 flags,
		       struct shim_run *run)
{
	u32 index = hash_find(d, key, run);

	if (flags)
		return -EINVAL;
	if (index == d->nr_elems)
		return -ENOENT;
	hash_read(d, index, value);
	return 0;
}

#define HASH_OPS \
	{ \
		.layout = layout, .check = check, .lookup = lookup, .update = update, .del = del, \
		.sys_lookup = sys_lookup, .sys_update = sys_update, .sys_take = sys_take, \
		.sys_next = hash_sys_next, .sys_batch = hash_sys_batch, \
	}

const struct map_ops hash_ops = HASH_OPS;
const struct map_ops percpu_hash_ops = HASH_OPS;
