/*
 * BPF_MAP_TYPE_QUEUE and STACK: one ring of max_entries + 1 values for both, which differ in the
 * end that is popped. A value is written into a slot that is not in use, then one store of
 * (first, count) makes it the newest; so whoever takes the lock over from the dead finds a whole
 * ring and need repair nothing. Source of errnos: kernel/bpf/queue_stack_maps.c.
 */
#include "runtime.h"

enum {
	CREATE_FLAGS = BPF_F_NUMA_NODE | BPF_F_RDONLY | BPF_F_WRONLY | BPF_F_RDONLY_PROG |
		       BPF_F_WRONLY_PROG
};
enum { MAX_VALUE = 1 << 22 }; /* KMALLOC_MAX_SIZE */

struct state {
	u32 lock;
	u32 pad;
	u64 ring; /* first | count << 32 */
};

/* A copy of state.ring, made to fit. */
struct ring {
	u32 first, count;
};

static long layout(struct shim_map_hdr *hdr)
{
	u64 slots = (u64)hdr->max_entries + 1;

	if (!hdr->max_entries || hdr->key_size || !hdr->value_size ||
	    hdr->map_flags & ~(u32)CREATE_FLAGS)
		return -EINVAL;
	if (hdr->value_size > MAX_VALUE)
		return -E2BIG;
	hdr->stride = hdr->value_size;
	hdr->mmap_size = 0;
	hdr->state_off = 0;
	hdr->elem_off = 64;
	hdr->file_size = round_up(hdr->elem_off + slots * hdr->stride, SHIM_PAGE) + SHIM_PAGE;
	return 0;
}

static long check(const struct shim_map_hdr *hdr)
{
	struct shim_map_hdr want = *hdr;

	return !layout(&want) && want.stride == hdr->stride && !hdr->mmap_size && !hdr->state_off &&
			       want.elem_off == hdr->elem_off && want.file_size == hdr->file_size
		       ? 0
		       : -EINVAL;
}

static struct state *state_of(const struct shim_map_desc *d)
{
	return desc_at(d, d->state_off);
}

static struct ring get(const struct shim_map_desc *d)
{
	u64 word = __atomic_load_n(&state_of(d)->ring, __ATOMIC_ACQUIRE);
	struct ring r = { (u32)word, (u32)(word >> 32) };

	if (r.first > d->max_entries || r.count > d->max_entries)
		r.first = r.count = 0;
	return r;
}

/* What was read or written before is so when this is seen. */
static void set(const struct shim_map_desc *d, u64 first, u64 count)
{
	first %= (u64)d->max_entries + 1;
	__atomic_store_n(&state_of(d)->ring, first | count << 32, __ATOMIC_RELEASE);
}

/* The n-th oldest value; n == count: the spare one behind the newest. */
static void *slot(const struct shim_map_desc *d, struct ring r, u64 n)
{
	return desc_at(d, d->elem_off + (r.first + n) % ((u64)d->max_entries + 1) * d->stride);
}

static long push(const struct shim_map_desc *d, const void *value, u64 flags, struct shim_run *run)
{
	struct ring r;
	bool full;

	if (flags != BPF_ANY && flags != BPF_EXIST)
		return -EINVAL;
	if (run_lock(&state_of(d)->lock, run) < 0)
		return -EBUSY;
	r = get(d);
	full = r.count == d->max_entries;
	if (!full || flags == BPF_EXIST) {
		memcpy(slot(d, r, r.count), value, d->value_size);
		set(d, (u64)r.first + full, r.count + !full);
	}
	run_unlock(&state_of(d)->lock, run);
	return full && flags != BPF_EXIST ? -E2BIG : 0;
}

/* The next to be popped, into value: zeroes if there is none. */
static long next(const struct shim_map_desc *d, void *value, bool take, struct shim_run *run)
{
	bool stack = d->type == BPF_MAP_TYPE_STACK;
	struct ring r;

	if (run_lock(&state_of(d)->lock, run) < 0)
		return -EBUSY;
	r = get(d);
	if (r.count) {
		memcpy(value, slot(d, r, stack ? r.count - 1 : 0), d->value_size);
		if (take)
			set(d, (u64)r.first + !stack, r.count - 1);
	} else {
		memset(value, 0, d->value_size);
	}
	run_unlock(&state_of(d)->lock, run);
	return r.count ? 0 : -ENOENT;
}

static long pop(const struct shim_map_desc *d, void *value, struct shim_run *run)
{
	return next(d, value, true, run);
}

static long peek(const struct shim_map_desc *d, void *value, struct shim_run *run)
{
	return next(d, value, false, run);
}

static long sys_lookup(const struct shim_map_desc *d, const void *key, void *value, u64 flags,
		       struct shim_run *run)
{
	(void)key, (void)flags;
	return peek(d, value, run);
}

static long sys_take(const struct shim_map_desc *d, const void *key, void *value, u64 flags,
		     struct shim_run *run)
{
	(void)key;
	return flags ? -EINVAL : pop(d, value, run);
}

static long sys_update(const struct shim_map_desc *d, const void *key, const void *value, u64 flags,
		       struct shim_run *run)
{
	(void)key;
	return push(d, value, flags, run);
}

static long sys_next(const struct shim_map_desc *d, const void *key, void *next_key,
		     struct shim_run *run)
{
	(void)d, (void)key, (void)next_key, (void)run;
	return -EINVAL;
}

const struct map_ops queue_stack_ops = {
	.layout = layout,
	.check = check,
	.push = push,
	.pop = pop,
	.peek = peek,
	.sys_lookup = sys_lookup,
	.sys_take = sys_take,
	.sys_update = sys_update,
	.sys_next = sys_next,
};
