/* CGROUP_ARRAY can be created and is empty, since a process has no cgroup to compare. */
#include "runtime.h"

static long place(struct shim_map_hdr *hdr)
{
	hdr->stride = (u32)round_up(hdr->value_size, 8);
	hdr->mmap_size = 0;
	hdr->file_size = SHIM_PAGE;
	return 0;
}

static long check(const struct shim_map_hdr *hdr)
{
	return hdr->file_size == SHIM_PAGE && !hdr->mmap_size ? 0 : -EINVAL;
}

static long cgroup_layout(struct shim_map_hdr *hdr)
{
	u32 allowed = BPF_F_NUMA_NODE | BPF_F_RDONLY | BPF_F_WRONLY;

	if (!hdr->max_entries || hdr->key_size != 4 || hdr->value_size != 4 ||
	    hdr->map_flags & ~allowed)
		return -EINVAL;
	return place(hdr);
}

static long del(const struct shim_map_desc *d, const void *key, struct shim_run *run)
{
	(void)run;
	return *(const u32 *)key < d->max_entries ? -ENOENT : -E2BIG;
}

const struct map_ops cgroup_array_ops = {
	.layout = cgroup_layout,
	.check = check,
	.sys_next = array_sys_next,
	.del = del,
};
