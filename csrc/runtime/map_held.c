/* Map types that can be created and are empty: STACK_TRACE until stacks are walked, CGROUP_ARRAY
 * since a process has no cgroup to compare. Reads say ENOENT, writes are refused. */
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

/* stack_map_alloc(); BPF_F_STACK_BUILD_ID has entries of 32 bytes. */
static long stack_layout(struct shim_map_hdr *hdr)
{
	u32 allowed = BPF_F_NUMA_NODE | BPF_F_RDONLY | BPF_F_WRONLY | BPF_F_STACK_BUILD_ID;
	u32 entry = hdr->map_flags & BPF_F_STACK_BUILD_ID ? 32 : 8;

	if (hdr->map_flags & ~allowed)
		return -EINVAL;
	if (!hdr->max_entries || hdr->key_size != 4 || hdr->value_size < 8 || hdr->value_size % 8)
		return -EINVAL;
	if (hdr->value_size % entry || hdr->value_size / entry > 127)
		return -EINVAL;
	return place(hdr);
}

static long cgroup_layout(struct shim_map_hdr *hdr)
{
	u32 allowed = BPF_F_NUMA_NODE | BPF_F_RDONLY | BPF_F_WRONLY;

	if (!hdr->max_entries || hdr->key_size != 4 || hdr->value_size != 4 ||
	    hdr->map_flags & ~allowed)
		return -EINVAL;
	return place(hdr);
}

static long sys_lookup(const struct shim_map_desc *d, const void *key, void *value, u64 flags,
		       struct shim_run *run)
{
	(void)d, (void)key, (void)value, (void)flags, (void)run;
	return -ENOENT;
}

static long sys_next(const struct shim_map_desc *d, const void *key, void *next, struct shim_run *run)
{
	(void)d, (void)key, (void)next, (void)run;
	return -ENOENT;
}

static long del(const struct shim_map_desc *d, const void *key, struct shim_run *run)
{
	(void)run;
	return *(const u32 *)key < d->max_entries ? -ENOENT : -E2BIG;
}

const struct map_ops stack_trace_ops = {
	.layout = stack_layout,
	.check = check,
	.sys_lookup = sys_lookup,
	.sys_next = sys_next,
	.del = del,
};

const struct map_ops cgroup_array_ops = {
	.layout = cgroup_layout,
	.check = check,
	.sys_next = array_sys_next,
	.del = del,
};
