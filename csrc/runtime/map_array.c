/*
 * BPF_MAP_TYPE_ARRAY: values from offset 0 with stride round_up(value_size, 8), so that what a
 * loader maps is the kernel's layout. Source: kernel/bpf/arraymap.c.
 */
#include "runtime.h"

enum {
	CREATE_FLAGS = BPF_F_NUMA_NODE | BPF_F_MMAPABLE | BPF_F_RDONLY | BPF_F_WRONLY |
		       BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG | BPF_F_INNER_MAP
};
enum { MAX_VALUE = 0x7fffffff - 4096, ENOTSUPP_ = 524 };

long array_alloc_check(const struct shim_map_hdr *hdr, u32 flags)
{
	if (!hdr->max_entries || hdr->key_size != 4 || !hdr->value_size || hdr->map_flags & ~flags)
		return -EINVAL;
	return hdr->value_size > MAX_VALUE ? -E2BIG : 0;
}

long array_place(struct shim_map_hdr *hdr, u64 copies)
{
	u64 size;

	hdr->stride = (u32)round_up(hdr->value_size, 8);
	if (__builtin_mul_overflow(hdr->stride * copies, (u64)hdr->max_entries, &size) || size >> 46)
		return -ENOMEM;
	hdr->mmap_size = round_up(size, SHIM_PAGE);
	hdr->file_size = hdr->mmap_size + SHIM_PAGE;
	return 0;
}

static long layout(struct shim_map_hdr *hdr)
{
	long err = array_alloc_check(hdr, CREATE_FLAGS);

	return err ? err : array_place(hdr, 1);
}

static bool fits(const struct shim_map_hdr *hdr, u64 copies)
{
	struct shim_map_hdr want = *hdr;

	return hdr->key_size == 4 && hdr->value_size && hdr->value_size <= MAX_VALUE &&
	       !array_place(&want, copies) && want.stride == hdr->stride &&
	       want.mmap_size == hdr->mmap_size && want.file_size == hdr->file_size;
}

static long check(const struct shim_map_hdr *hdr)
{
	return fits(hdr, 1) ? 0 : -EINVAL;
}

long array_check_percpu(const struct shim_map_hdr *hdr)
{
	return fits(hdr, hdr->nr_vcpus) ? 0 : -EINVAL;
}

/* Address of a value, or NULL beyond the end. */
static void *at(const struct shim_map_desc *d, const void *key)
{
	u32 index = *(const u32 *)key;

	return index < d->max_entries ? desc_at(d, (u64)index * d->stride) : 0;
}

static void *lookup(const struct shim_map_desc *d, const void *key, struct shim_run *run)
{
	(void)run;
	return at(d, key);
}

long array_check_flags(const struct shim_map_desc *d, const void *key, u64 flags)
{
	if (flags > BPF_EXIST)
		return -EINVAL;
	if (*(const u32 *)key >= d->max_entries)
		return -E2BIG;
	return flags == BPF_NOEXIST ? -EEXIST : 0;
}

static long update(const struct shim_map_desc *d, const void *key, const void *value, u64 flags,
		   struct shim_run *run)
{
	long err = array_check_flags(d, key, flags);

	(void)run;
	if (!err)
		memcpy(at(d, key), value, d->value_size);
	return err;
}

static long sys_lookup(const struct shim_map_desc *d, const void *key, void *value, u64 flags,
		       struct shim_run *run)
{
	const void *from = at(d, key);

	(void)flags, (void)run;
	if (!from)
		return -ENOENT;
	memcpy(value, from, d->value_size);
	return 0;
}

long array_sys_next(const struct shim_map_desc *d, const void *key, void *next, struct shim_run *run)
{
	u32 index = key ? *(const u32 *)key : ~0u, *to = next;

	(void)run;
	if (index >= d->max_entries)
		*to = 0;
	else if (index == d->max_entries - 1)
		return -ENOENT;
	else
		*to = index + 1;
	return 0;
}

/* generic_map_lookup_batch(): positions are keys, the one delivered last. */
long array_sys_batch(const struct shim_map_desc *d, const u32 *in_batch, u32 *out_batch, void *keys,
		     void *values, u32 *count, u64 flags, u32 del, struct shim_run *run)
{
	u64 size = d->type == BPF_MAP_TYPE_ARRAY ? d->value_size : (u64)d->stride * d->nr_vcpus;
	u32 room = *count, n = 0, index = in_batch ? *in_batch + 1 : 0;

	if (index >= d->max_entries && in_batch && *in_batch != d->max_entries - 1)
		index = 0; /* next of an unknown key */
	if (del)
		return -ENOTSUPP_;
	for (; n < room && index < d->max_entries; n++, index++) {
		((u32 *)keys)[n] = index;
		shim_map_sys_lookup(d, &index, (u8 *)values + n * size, flags, run);
		*out_batch = index;
	}
	*count = n;
	return n < room ? -ENOENT : 0;
}

const struct map_ops array_ops = {
	.layout = layout,
	.check = check,
	.lookup = lookup,
	.update = update,
	.sys_lookup = sys_lookup,
	.sys_update = update,
	.sys_next = array_sys_next,
	.sys_batch = array_sys_batch,
};
