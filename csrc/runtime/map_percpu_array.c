/*
 * BPF_MAP_TYPE_PERCPU_ARRAY: for each virtual CPU an array of its own, one behind the other, each
 * from a cache line's beginning. A run owns its CPU: no atomics.
 */
#include "runtime.h"

enum { CREATE_FLAGS = BPF_F_RDONLY | BPF_F_WRONLY | BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG };
enum { PCPU_MIN_UNIT_SIZE = 32768 };

static long layout(struct shim_map_hdr *hdr)
{
	long err = array_alloc_check(hdr, CREATE_FLAGS);

	if (!err && round_up(hdr->value_size, 8) > PCPU_MIN_UNIT_SIZE)
		err = -E2BIG;
	if (!err)
		err = array_place(hdr, hdr->nr_vcpus);
	if (!err)
		hdr->mmap_size = 0;
	return err;
}

static long check(const struct shim_map_hdr *hdr)
{
	struct shim_map_hdr whole = *hdr;

	if (hdr->mmap_size)
		return -EINVAL;
	whole.mmap_size = hdr->file_size - SHIM_PAGE;
	return array_check_percpu(&whole);
}

static void *at(const struct shim_map_desc *d, u32 index, u32 cpu)
{
	return desc_at(d, ((u64)cpu * d->cpu_slots + index) * d->stride);
}

static void *lookup(const struct shim_map_desc *d, const void *key, struct shim_run *run)
{
	u32 index = *(const u32 *)key;

	if (index >= d->max_entries || run->vcpu >= d->nr_vcpus)
		return 0;
	return at(d, held_below(index, d->max_entries), run->vcpu);
}

static long update(const struct shim_map_desc *d, const void *key, const void *value, u64 flags,
		   struct shim_run *run)
{
	long err = array_check_flags(d, key, flags);

	if (err)
		return err;
	if (run->vcpu >= d->nr_vcpus)
		return -EINVAL;
	memcpy(at(d, *(const u32 *)key, run->vcpu), value, d->value_size);
	return 0;
}

static long sys_lookup(const struct shim_map_desc *d, const void *key, void *value, u64 flags,
		       struct shim_run *run)
{
	u32 index = *(const u32 *)key;

	(void)flags, (void)run;
	if (index >= d->max_entries)
		return -ENOENT;
	for (u32 cpu = 0; cpu < d->nr_vcpus; cpu++)
		memcpy((u8 *)value + (u64)cpu * d->stride, at(d, index, cpu), d->stride);
	return 0;
}

static long sys_update(const struct shim_map_desc *d, const void *key, const void *value, u64 flags,
		       struct shim_run *run)
{
	long err = array_check_flags(d, key, flags);

	(void)run;
	for (u32 cpu = 0; !err && cpu < d->nr_vcpus; cpu++)
		memcpy(at(d, *(const u32 *)key, cpu), (const u8 *)value + (u64)cpu * d->stride,
		       d->stride);
	return err;
}

static long each(const struct shim_map_desc *d, u64 fn, u64 ctx, struct shim_run *run)
{
	u32 done = 0;

	if (run->vcpu >= d->nr_vcpus)
		return -EINVAL;
	while (done < d->max_entries) {
		u32 key = done++;
		u64 value = (u64)at(d, key, run->vcpu);

		if (shim_callback(fn, run, (u64)d, (u64)&key, value, ctx))
			break;
	}
	return done;
}

const struct map_ops percpu_array_ops = {
	.layout = layout,
	.check = check,
	.lookup = lookup,
	.update = update,
	.sys_lookup = sys_lookup,
	.sys_update = sys_update,
	.sys_next = array_sys_next,
	.each = each,
	.sys_batch = sys_batch,
};
