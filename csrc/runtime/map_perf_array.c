/*
 * BPF_MAP_TYPE_PERF_EVENT_ARRAY: an element is a struct shim_perf_slot, which the backend writes
 * (sys_update's value) for the descriptor that the loader gave. Source: kernel/bpf/arraymap.c.
 */
#include "runtime.h"

enum { CREATE_FLAGS = BPF_F_NUMA_NODE | BPF_F_RDONLY | BPF_F_WRONLY | BPF_F_PRESERVE_ELEMS };

static long layout(struct shim_map_hdr *hdr)
{
	u64 size = (u64)hdr->max_entries * sizeof(struct shim_perf_slot);

	if (!hdr->max_entries || hdr->key_size != 4 || hdr->value_size != 4 ||
	    hdr->map_flags & ~(u32)CREATE_FLAGS)
		return -EINVAL;
	hdr->stride = sizeof(struct shim_perf_slot);
	hdr->mmap_size = 0;
	hdr->file_size = round_up(size, SHIM_PAGE) + SHIM_PAGE;
	return 0;
}

static long check(const struct shim_map_hdr *hdr)
{
	u64 size = (u64)hdr->max_entries * sizeof(struct shim_perf_slot);

	if (hdr->key_size != 4 || hdr->stride != sizeof(struct shim_perf_slot) || hdr->mmap_size)
		return -EINVAL;
	return hdr->file_size == round_up(size, SHIM_PAGE) + SHIM_PAGE ? 0 : -EINVAL;
}

static u64 *word(const struct shim_map_desc *d, const void *key)
{
	u64 index = *(const u32 *)key;

	return &((struct shim_perf_slot *)desc_at(d, index * d->stride))->word;
}

static long put(const struct shim_map_desc *d, const void *key, const void *value, u64 flags,
		struct shim_run *run)
{
	(void)run;
	if (flags)
		return -EINVAL;
	if (*(const u32 *)key >= d->max_entries)
		return -E2BIG;
	__atomic_store_n(word(d, key), ((const struct shim_perf_slot *)value)->word, __ATOMIC_RELEASE);
	return 0;
}

static long del(const struct shim_map_desc *d, const void *key, struct shim_run *run)
{
	(void)run;
	if (*(const u32 *)key >= d->max_entries)
		return -E2BIG;
	return __atomic_exchange_n(word(d, key), 0, __ATOMIC_ACQ_REL) ? 0 : -ENOENT;
}

const struct map_ops perf_array_ops = {
	.layout = layout,
	.check = check,
	.del = del,
	.sys_update = put,
	.sys_next = array_sys_next,
};
