/*
 * BPF_MAP_TYPE_ARENA: max_entries pages from offset 0, which the loader maps and programs use by the
 * lower half of the loader's addresses. Where that is, is told by map_extra or decided by the first
 * mmap (csrc/surface/mmap.c), and kept beside the header. Source: kernel/bpf/arena.c.
 */
#include "runtime.h"

enum { SEGV_ON_FAULT = 1 << 17, NO_USER_CONV = 1 << 18 }; /* newer than Debian's linux/bpf.h */
enum { CREATE_FLAGS = BPF_F_MMAPABLE | SEGV_ON_FAULT | NO_USER_CONV };

static long layout(struct shim_map_hdr *hdr)
{
	u64 size = (u64)hdr->max_entries * SHIM_PAGE, start = hdr->map_extra;

	if (hdr->key_size || hdr->value_size || !hdr->max_entries ||
	    !(hdr->map_flags & BPF_F_MMAPABLE) || hdr->map_flags & ~(u32)CREATE_FLAGS ||
	    start % SHIM_PAGE)
		return -EINVAL;
	if (size > 1ull << 32)
		return -E2BIG;
	if (start >> 32 != (start + size - 1) >> 32)
		return -ERANGE;
	if (hdr->map_flags & SEGV_ON_FAULT) /* pages would come from bpf_arena_alloc_pages() alone */
		return -EOPNOTSUPP;
	hdr->stride = SHIM_PAGE;
	hdr->mmap_size = size;
	hdr->state_off = size + SHIM_PAGE / 2; /* in the header's page */
	hdr->elem_off = 0;
	hdr->file_size = size + SHIM_PAGE;
	return 0;
}

static long check(const struct shim_map_hdr *hdr)
{
	struct shim_map_hdr want = *hdr;

	return !layout(&want) && want.stride == hdr->stride && want.mmap_size == hdr->mmap_size &&
			       want.state_off == hdr->state_off && !hdr->elem_off &&
			       want.file_size == hdr->file_size
		       ? 0
		       : -EINVAL;
}

static long format(void *base, const struct shim_map_hdr *hdr)
{
	struct shim_arena *a = (struct shim_arena *)((u8 *)base + hdr->state_off);

	a->start = hdr->map_extra;
	a->end = hdr->map_extra ? hdr->map_extra + hdr->mmap_size : 0;
	return 0;
}

static long sys_lookup(const struct shim_map_desc *d, const void *key, void *value, u64 flags,
		       struct shim_run *run)
{
	(void)d, (void)key, (void)value, (void)flags, (void)run;
	return -EINVAL;
}

static long sys_update(const struct shim_map_desc *d, const void *key, const void *value, u64 flags,
		       struct shim_run *run)
{
	(void)d, (void)key, (void)value, (void)flags, (void)run;
	return -EOPNOTSUPP;
}

static long del(const struct shim_map_desc *d, const void *key, struct shim_run *run)
{
	(void)d, (void)key, (void)run;
	return -EOPNOTSUPP;
}

static long sys_next(const struct shim_map_desc *d, const void *key, void *next, struct shim_run *run)
{
	(void)d, (void)key, (void)next, (void)run;
	return -EOPNOTSUPP;
}

const struct map_ops arena_ops = {
	.layout = layout,
	.check = check,
	.format = format,
	.del = del,
	.sys_lookup = sys_lookup,
	.sys_update = sys_update,
	.sys_next = sys_next,
};
