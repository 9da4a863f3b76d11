/* Creation of hash maps, plain and LRU. Source of errnos: kernel/bpf/hashtab.c. */
#include "map_hash.h"

enum {
	CREATE_FLAGS = BPF_F_NO_PREALLOC | BPF_F_NUMA_NODE | BPF_F_RDONLY | BPF_F_WRONLY |
		       BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG | BPF_F_ZERO_SEED | BPF_F_NO_COMMON_LRU
};
enum { PCPU_MIN_UNIT_SIZE = 32768, ENOTSUPP_ = 524 };
enum { MAX_KEY_VALUE = (1 << 22) - 48 }; /* KMALLOC_MAX_SIZE less the kernel's struct htab_elem */
enum { MAX_BUCKETS = 1 << 27 }; /* U32_MAX / the kernel's struct bucket, as a power of two */

static bool percpu_type(const struct shim_map_hdr *hdr)
{
	return hdr->type == BPF_MAP_TYPE_PERCPU_HASH || hdr->type == BPF_MAP_TYPE_LRU_PERCPU_HASH;
}

static bool lru_type(const struct shim_map_hdr *hdr)
{
	return hdr->type == BPF_MAP_TYPE_LRU_HASH || hdr->type == BPF_MAP_TYPE_LRU_PERCPU_HASH;
}

/* A line of the cache apart, wherever the first CPU's begin; and not by a multiple of 4 KiB, or near one: an
 * element's values of all CPUs would be in the same few lines of a cache. */
u32 hash_cpu_slots(u32 elems, u32 value_size)
{
	u64 size = round_up(value_size, 8), slots = elems + (63 + size - 1) / size;

	while (size % 4096 && (slots * size + 63) % 4096 < 127 && slots < 0xffffffff)
		slots++;
	return (u32)slots;
}

static long place(struct shim_map_hdr *hdr)
{
	u64 value = round_up(hdr->value_size, 8), buckets = 1, size, values = 0, each;

	while (buckets < hdr->max_entries)
		buckets *= 2;
	if (lru_type(hdr)) /* full most of the time */
		buckets *= 2;
	hdr->stride = (u32)(sizeof(struct elem) + round_up(hdr->key_size, 8));
	if (percpu_type(hdr))
		values = value * hash_cpu_slots(hdr->max_entries, hdr->value_size);
	else
		hdr->stride += (u32)value;
	hdr->nr_buckets = (u32)buckets;
	hdr->nr_elems = hdr->max_entries;
	hdr->mmap_size = 0;
	hdr->state_off = 0;
	hdr->bucket_off = FREE_SIZE;
	if (lru_type(hdr))
		hdr->bucket_off = lru_state_size(hdr->nr_elems, hdr->nr_cpus, hdr->map_flags);
	each = sizeof(struct bucket) + (lru_type(hdr) ? 0 : sizeof(u32)); /* spare_of() */
	hdr->elem_off = round_up(hdr->bucket_off + buckets * each, 64);
	if (lru_type(hdr))
		hdr->elem_off += lru_nodes_size(hdr->nr_elems, hdr->nr_cpus, hdr->map_flags);
	if (__builtin_mul_overflow(hdr->stride, (u64)hdr->max_entries, &size) ||
	    __builtin_mul_overflow(values, (u64)hdr->nr_vcpus, &values) ||
	    __builtin_add_overflow(size, values, &size) || size >> 46)
		return -ENOMEM;
	hdr->file_size = round_up(hdr->elem_off + size, SHIM_PAGE) + SHIM_PAGE;
	return 0;
}

static long alloc_check(const struct shim_map_hdr *hdr)
{
	bool lru = lru_type(hdr), own_lists = hdr->map_flags & BPF_F_NO_COMMON_LRU;

	if (hdr->map_flags & ~(u32)CREATE_FLAGS || (own_lists && !lru))
		return -EINVAL;
	if (lru && hdr->map_flags & BPF_F_NO_PREALLOC)
		return -ENOTSUPP_;
	if (hdr->map_flags & BPF_F_NUMA_NODE && (percpu_type(hdr) || own_lists))
		return -EINVAL;
	if (!hdr->max_entries || !hdr->key_size || !hdr->value_size)
		return -EINVAL;
	if ((u64)hdr->key_size + hdr->value_size >= MAX_KEY_VALUE)
		return -E2BIG;
	if (percpu_type(hdr) && round_up(hdr->value_size, 8) > PCPU_MIN_UNIT_SIZE)
		return -E2BIG;
	return 0;
}

long hash_layout(struct shim_map_hdr *hdr)
{
	u64 entries = hdr->max_entries;
	long err = alloc_check(hdr);

	if (err)
		return err;
	if (lru_type(hdr) && !hdr->nr_cpus)
		hdr->nr_cpus = hdr->nr_vcpus;
	if (hdr->nr_cpus > SHIM_MAX_VCPUS)
		return -EINVAL;
	/* an even share for each CPU's lists */
	if (hdr->map_flags & BPF_F_NO_COMMON_LRU) {
		entries = round_up(entries, hdr->nr_cpus);
		if (entries >> 32)
			entries -= hdr->nr_cpus;
	}
	if (entries > MAX_BUCKETS)
		return -E2BIG;
	hdr->max_entries = (u32)entries;
	return place(hdr);
}

long hash_check(const struct shim_map_hdr *hdr)
{
	struct shim_map_hdr want = *hdr;

	if (hash_layout(&want) || want.max_entries != hdr->max_entries || want.stride != hdr->stride ||
	    want.nr_buckets != hdr->nr_buckets || want.nr_elems != hdr->nr_elems ||
	    want.file_size != hdr->file_size || want.nr_cpus != hdr->nr_cpus)
		return -EINVAL;
	if (want.bucket_off != hdr->bucket_off || want.elem_off != hdr->elem_off || hdr->mmap_size ||
	    hdr->state_off)
		return -EINVAL;
	return 0;
}
