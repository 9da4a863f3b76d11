/*
 * BPF_MAP_TYPE_CGROUP_ARRAY: an element is the id of the cgroup whose directory was given, 0 if
 * there is none. Source: kernel/bpf/arraymap.c.
 */
#include "runtime.h"

enum { CREATE_FLAGS = BPF_F_NUMA_NODE | BPF_F_RDONLY | BPF_F_WRONLY };

static long layout(struct shim_map_hdr *hdr)
{
	u64 size = (u64)hdr->max_entries * sizeof(u64);

	if (!hdr->max_entries || hdr->key_size != 4 || hdr->value_size != 4 ||
	    hdr->map_flags & ~(u32)CREATE_FLAGS)
		return -EINVAL;
	hdr->stride = sizeof(u64);
	hdr->mmap_size = 0;
	hdr->file_size = round_up(size, SHIM_PAGE) + SHIM_PAGE;
	return 0;
}

static long check(const struct shim_map_hdr *hdr)
{
	struct shim_map_hdr want = *hdr;

	return !layout(&want) && want.stride == hdr->stride && !hdr->mmap_size &&
			       want.file_size == hdr->file_size
		       ? 0
		       : -EINVAL;
}

static u64 *slot(const struct shim_map_desc *d, u32 index)
{
	return (u64 *)desc_at(d, 0) + index;
}

/* The value is a descriptor of the calling process's. */
static long sys_update(const struct shim_map_desc *d, const void *key, const void *value, u64 flags,
		       struct shim_run *run)
{
	u32 index = *(const u32 *)key;
	long id;

	(void)run;
	if (flags != BPF_ANY)
		return -EINVAL;
	if (index >= d->max_entries)
		return -E2BIG;
	id = cgroup_of_fd(*(const s32 *)value);
	if (id < 0)
		return id;
	__atomic_store_n(slot(d, index), (u64)id, __ATOMIC_RELEASE);
	return 0;
}

static long del(const struct shim_map_desc *d, const void *key, struct shim_run *run)
{
	u32 index = *(const u32 *)key;

	(void)run;
	if (index >= d->max_entries)
		return -E2BIG;
	return __atomic_exchange_n(slot(d, index), 0, __ATOMIC_ACQ_REL) ? 0 : -ENOENT;
}

long cgroup_array_under(const struct shim_map_desc *d, u32 index)
{
	u64 id;

	if (index >= d->max_entries)
		return -E2BIG;
	id = __atomic_load_n(slot(d, index), __ATOMIC_ACQUIRE);
	return id ? cgroup_under(id) : -EAGAIN;
}

const struct map_ops cgroup_array_ops = {
	.layout = layout,
	.check = check,
	.del = del,
	.sys_update = sys_update,
	.sys_next = array_sys_next,
};
