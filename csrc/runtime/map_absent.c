/*
 * Map types that nothing here could use: their programs run in the kernel's network stack, in
 * cgroups, or on inodes. MAP_CREATE refuses what the kernel refuses, with its errno, and then the
 * type. Measured on Linux 6.18 (compat_tests/runtime/test_types.py).
 */
#include "runtime.h"

enum { STORAGE_MAX = 65407, PERCPU_MAX = 32768 }; /* bytes of a value */
enum { CGRP_STORAGE = 32 }; /* BPF_MAP_TYPE_CGRP_STORAGE, newer than Debian's linux/bpf.h */
enum {
	ACCESS = BPF_F_NUMA_NODE | BPF_F_RDONLY | BPF_F_WRONLY,
	ACCESS_PROG = ACCESS | BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG
};

/* key, value: sizes in bytes; two that are allowed. key 0: any. value 0: up to STORAGE_MAX. */
static const struct rule {
	u32 type;
	u32 key[2], value[2];
	bool entries; /* there must be some; else there must be none */
	u32 flags;
} rules[] = {
	{ BPF_MAP_TYPE_DEVMAP, { 4, 4 }, { 4, 8 }, true, ACCESS },
	{ BPF_MAP_TYPE_DEVMAP_HASH, { 4, 4 }, { 4, 8 }, true, ACCESS },
	{ BPF_MAP_TYPE_SOCKMAP, { 4, 4 }, { 4, 8 }, true, ACCESS },
	{ BPF_MAP_TYPE_SOCKHASH, { 0, 0 }, { 4, 8 }, true, ACCESS },
	{ BPF_MAP_TYPE_CPUMAP, { 4, 4 }, { 4, 8 }, true, BPF_F_NUMA_NODE },
	{ BPF_MAP_TYPE_XSKMAP, { 4, 4 }, { 4, 4 }, true, ACCESS },
	{ BPF_MAP_TYPE_REUSEPORT_SOCKARRAY, { 4, 4 }, { 4, 8 }, true, ACCESS_PROG },
	{ BPF_MAP_TYPE_CGROUP_STORAGE, { 8, 16 }, { 0, 0 }, false, ACCESS_PROG },
	{ BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE, { 8, 16 }, { 0, 0 }, false, ACCESS_PROG },
	{ BPF_MAP_TYPE_SK_STORAGE, { 4, 4 }, { 0, 0 }, false, BPF_F_NO_PREALLOC | BPF_F_CLONE },
	{ BPF_MAP_TYPE_INODE_STORAGE, { 4, 4 }, { 0, 0 }, false, BPF_F_NO_PREALLOC | BPF_F_CLONE },
	{ CGRP_STORAGE, { 4, 4 }, { 0, 0 }, false, BPF_F_NO_PREALLOC | BPF_F_CLONE },
};

static bool is_one(u32 size, const u32 *of)
{
	return size == of[0] || size == of[1];
}

static long refuse(const struct rule *r, const struct shim_map_hdr *hdr)
{
	u32 most = r->type == BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE ? PERCPU_MAX : STORAGE_MAX;

	/* the storages of cgroup programs say so before anything else */
	if (r->flags == ACCESS_PROG && !r->entries && is_one(hdr->key_size, r->key) &&
	    hdr->value_size > most)
		return -E2BIG;
	if (hdr->map_flags & ~r->flags || !hdr->max_entries == r->entries ||
	    (r->flags & BPF_F_NO_PREALLOC && !(hdr->map_flags & BPF_F_NO_PREALLOC)))
		return -EINVAL;
	if (r->key[0] ? !is_one(hdr->key_size, r->key) : !hdr->key_size)
		return -EINVAL;
	if (r->value[0] ? !is_one(hdr->value_size, r->value) : !hdr->value_size)
		return -EINVAL;
	if (!r->key[0] && hdr->key_size > 512) /* MAX_BPF_STACK */
		return -E2BIG;
	return hdr->value_size > most ? -E2BIG : -EOPNOTSUPP;
}

long absent_refuse(const struct shim_map_hdr *hdr)
{
	for (u32 i = 0; i < sizeof(rules) / sizeof(rules[0]); i++)
		if (rules[i].type == hdr->type)
			return refuse(&rules[i], hdr);
	return -EINVAL; /* STRUCT_OPS without a kernel's type: the backend answers the rest */
}
