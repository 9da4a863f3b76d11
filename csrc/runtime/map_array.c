/*
 * BPF_MAP_TYPE_ARRAY: values from offset 0 with stride round_up(value_size, 8), so that what a
 * loader maps is the kernel's layout. Source: kernel/bpf/arraymap.c.
 */
#include "runtime.h"

enum {
	CREATE_FLAGS = BPF_F_NUMA_NODE | BPF_F_MMAPABLE | BPF_F_RDONLY | BPF_F_WRONLY |
		       BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG | BPF_F_INNER_MAP
};
enum { MAX_VALUE = 0x7fffffff };

long array_alloc_check(const struct shim_map_hdr *hdr, u32 flags)
{
	if (!hdr->max_entries || hdr->key_size != 4 || !hdr->value_size || hdr->map_flags & ~flags)
		return -EINVAL;
	return hdr->value_size > MAX_VALUE ? -E2BIG : 0;
}

u32 array_cpu_slots(u32 entries, u32 value_size)
{
	u64 stride = round_up(value_size, 8), part = stride & -stride, slots;

	slots = part < 64 ? round_up(entries, 64 / part) : entries;
	return slots >> 32 ? entries : (u32)slots;
}

long array_place(struct shim_map_hdr *hdr, u64 copies)
{
	u64 size, each = copies > 1 ? array_cpu_slots(hdr->max_entries, hdr->value_size)
				    : hdr->max_entries;

	hdr->stride = (u32)round_up(hdr->value_size, 8);
	if (__builtin_mul_overflow(hdr->stride * copies, each, &size) || size >> 46)
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

	if (index >= d->max_entries)
		return 0;
	return desc_at(d, (u64)held_below(index, d->max_entries) * d->stride);
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
	bool locked = flags & BPF_F_LOCK;
	long err = array_check_flags(d, key, flags & ~(u64)BPF_F_LOCK);

	if (!err && locked && !d->lock_at)
		err = -EINVAL;
	return err ? err : value_write(d, at(d, key), value, locked, run);
}

static long sys_lookup(const struct shim_map_desc *d, const void *key, void *value, u64 flags,
		       struct shim_run *run)
{
	const void *from = at(d, key);

	if (flags & ~(u64)BPF_F_LOCK || (flags && !d->lock_at))
		return -EINVAL;
	return from ? value_read(d, value, from, flags & BPF_F_LOCK, run) : -ENOENT;
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

static long each(const struct shim_map_desc *d, u64 fn, u64 ctx, struct shim_run *run)
{
	u32 done = 0;

	while (done < d->max_entries) {
		u32 key = done++;

		if (shim_callback(fn, run, (u64)d, (u64)&key, (u64)at(d, &key), ctx))
			break;
	}
	return done;
}

const struct map_ops array_ops = {
	.layout = layout,
	.check = check,
	.lookup = lookup,
	.update = update,
	.sys_lookup = sys_lookup,
	.sys_update = update,
	.sys_next = array_sys_next,
	.each = each,
	.sys_batch = sys_batch,
};
