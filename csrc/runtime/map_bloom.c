/*
 * BPF_MAP_TYPE_BLOOM_FILTER: map_extra hashes of a value name bits that push sets and peek tests.
 * Bits only ever become set, so there is no lock. Size and hash are the kernel's: with
 * BPF_F_ZERO_SEED a value is a false positive here when it is one there. Source:
 * kernel/bpf/bloom_filter.c.
 */
#include "runtime.h"

enum {
	CREATE_FLAGS = BPF_F_NUMA_NODE | BPF_F_ZERO_SEED | BPF_F_RDONLY | BPF_F_WRONLY |
		       BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG
};
enum { MAX_VALUE = 1 << 22 }; /* KMALLOC_MAX_SIZE */
enum { HASHES_DEFAULT = 5, HASHES_MASK = 15 };
enum { NR_GETRANDOM = 318, GRND_NONBLOCK_ = 1 };

struct state {
	u32 seed;
	u32 pad;
};

static u32 hashes(u64 map_extra)
{
	return map_extra ? (u32)map_extra & HASHES_MASK : HASHES_DEFAULT;
}

/* Bits less one: entries * hashes * 7 / 5 (1 / ln 2), a power of two from 64 to 2^32. */
static u32 last_bit(u32 max_entries, u32 count)
{
	u64 bits = (u64)max_entries * count, size = 64;

	if (bits >> 32)
		return 0xffffffff;
	bits = bits / 5 * 7;
	if (bits > 1ull << 31)
		return 0xffffffff;
	while (size < bits)
		size *= 2;
	return (u32)(size - 1);
}

static long layout(struct shim_map_hdr *hdr)
{
	if (hdr->value_size > MAX_VALUE)
		return -E2BIG;
	if (hdr->key_size || !hdr->value_size || !hdr->max_entries ||
	    hdr->map_flags & ~(u32)CREATE_FLAGS || hdr->map_extra & ~(u64)HASHES_MASK)
		return -EINVAL;
	hdr->stride = 0;
	hdr->mmap_size = 0;
	hdr->nr_elems = last_bit(hdr->max_entries, hashes(hdr->map_extra));
	hdr->elem_off = 0;
	hdr->state_off = ((u64)hdr->nr_elems + 1) / 8;
	hdr->file_size = round_up(hdr->state_off + sizeof(struct state), SHIM_PAGE) + SHIM_PAGE;
	return 0;
}

static long check(const struct shim_map_hdr *hdr)
{
	struct shim_map_hdr want = *hdr;

	return !layout(&want) && want.nr_elems == hdr->nr_elems && !hdr->mmap_size && !hdr->elem_off &&
			       want.state_off == hdr->state_off && want.file_size == hdr->file_size
		       ? 0
		       : -EINVAL;
}

static long format(void *base, const struct shim_map_hdr *hdr)
{
	struct state *s = (struct state *)((u8 *)base + hdr->state_off);
	u32 seed = 0;

	if (!(hdr->map_flags & BPF_F_ZERO_SEED) &&
	    shim_sys3(NR_GETRANDOM, &seed, sizeof(seed), GRND_NONBLOCK_) < 0)
		seed = (u32)__builtin_ia32_rdtsc();
	s->seed = seed;
	return 0;
}

static u32 bit_of(const struct shim_map_desc *d, const void *value, u32 n)
{
	const struct state *s = desc_at(d, d->state_off);

	return jhash(value, d->value_size, s->seed + n) & d->nr_elems;
}

static long push(const struct shim_map_desc *d, const void *value, u64 flags, struct shim_run *run)
{
	u64 *bits = desc_at(d, d->elem_off);

	(void)run;
	if (flags != BPF_ANY)
		return -EINVAL;
	for (u32 i = 0; i < hashes(d->map_extra); i++) {
		u32 bit = bit_of(d, value, i);

		__atomic_or_fetch(&bits[bit / 64], 1ull << bit % 64, __ATOMIC_RELEASE);
	}
	return 0;
}

static long peek(const struct shim_map_desc *d, void *value, struct shim_run *run)
{
	u64 *bits = desc_at(d, d->elem_off);

	(void)run;
	for (u32 i = 0; i < hashes(d->map_extra); i++) {
		u32 bit = bit_of(d, value, i);

		if (!(__atomic_load_n(&bits[bit / 64], __ATOMIC_ACQUIRE) & 1ull << bit % 64))
			return -ENOENT;
	}
	return 0;
}

static long pop(const struct shim_map_desc *d, void *value, struct shim_run *run)
{
	(void)d, (void)value, (void)run;
	return -EOPNOTSUPP;
}

static long del(const struct shim_map_desc *d, const void *key, struct shim_run *run)
{
	(void)d, (void)key, (void)run;
	return -EOPNOTSUPP;
}

/* The value asked for is the caller's: in, and unchanged out. */
static long sys_lookup(const struct shim_map_desc *d, const void *key, void *value, u64 flags,
		       struct shim_run *run)
{
	(void)key, (void)flags;
	return peek(d, value, run);
}

static long sys_update(const struct shim_map_desc *d, const void *key, const void *value, u64 flags,
		       struct shim_run *run)
{
	(void)key;
	return push(d, value, flags, run);
}

static long sys_next(const struct shim_map_desc *d, const void *key, void *next, struct shim_run *run)
{
	(void)d, (void)key, (void)next, (void)run;
	return -EOPNOTSUPP;
}

const struct map_ops bloom_ops = {
	.layout = layout,
	.check = check,
	.format = format,
	.del = del,
	.push = push,
	.pop = pop,
	.peek = peek,
	.sys_lookup = sys_lookup,
	.sys_update = sys_update,
	.sys_next = sys_next,
};
