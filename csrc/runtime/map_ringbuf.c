/*
 * BPF_MAP_TYPE_RINGBUF: consumer page, producer page, data, and room for as much again behind it.
 * A record that would wrap goes on into that room, so it is contiguous for its writer and, through
 * the loader's one mapping of both, for its reader; headers always lie in the first half.
 *
 * A reservation under way is known by its owner, in a table behind the data: what a dead owner left
 * BUSY is discarded by the next to reserve. Source: kernel/bpf/ringbuf.c.
 */
#include "runtime.h"

enum { DATA = 2 * SHIM_PAGE, HDR = BPF_RINGBUF_HDR_SZ, PENDING = 1024, RINGS = 3 };
enum { ENOTSUPP_ = 524 };

/* The kernel's header; place is its pg_off, which readers leave alone: here the entry. */
struct record {
	u32 len;
	u32 place;
};

struct pending {
	u32 owner; /* 0: free */
	u32 pad;
	u64 pos;
};

struct state {
	u32 lock;
	u32 used; /* high-water mark of pending[] */
	struct pending pending[PENDING];
};

static u64 state_size(void)
{
	return round_up(sizeof(struct state), SHIM_PAGE);
}

static long layout(struct shim_map_hdr *hdr)
{
	u64 size = hdr->max_entries;

	if (hdr->map_flags & ~(u32)BPF_F_NUMA_NODE || hdr->key_size || hdr->value_size || !size ||
	    size & (size - 1) || size % SHIM_PAGE)
		return -EINVAL;
	hdr->stride = 0;
	hdr->mmap_size = DATA + 2 * size;
	hdr->state_off = hdr->mmap_size;
	hdr->file_size = hdr->mmap_size + state_size() + SHIM_PAGE;
	return 0;
}

static long check(const struct shim_map_hdr *hdr)
{
	struct shim_map_hdr want = *hdr;

	return !layout(&want) && want.mmap_size == hdr->mmap_size && want.state_off == hdr->state_off &&
			       want.file_size == hdr->file_size
		       ? 0
		       : -EINVAL;
}

static u64 *consumer(const struct shim_map_desc *d)
{
	return desc_at(d, 0);
}

static u64 *producer(const struct shim_map_desc *d)
{
	return desc_at(d, SHIM_PAGE);
}

static struct record *record_at(const struct shim_map_desc *d, u64 pos)
{
	return desc_at(d, DATA + (pos & (d->max_entries - 1)));
}

/* Under the lock: an entry for a reservation, the dead's records discarded on the way. PENDING: none. */
static __attribute__((noinline)) u32 take_any(const struct shim_map_desc *d, struct state *s)
{
	struct shim_ctl *ctl = desc_ctl(d);
	u32 used = s->used < PENDING ? s->used : PENDING, got = PENDING;

	for (u32 i = 0; i < used; i++) {
		u32 owner = __atomic_load_n(&s->pending[i].owner, __ATOMIC_ACQUIRE);
		u32 gen = owner >> SHIM_OWNER_GEN_SHIFT & ((1u << SHIM_OWNER_GEN_BITS) - 1);

		if (owner && ctl->slot[owner >> SHIM_OWNER_SLOT_SHIFT].gen != gen) {
			struct record *r = record_at(d, s->pending[i].pos);
			u32 len = __atomic_load_n(&r->len, __ATOMIC_RELAXED) & ~BPF_RINGBUF_BUSY_BIT;

			__atomic_store_n(&r->len, len | BPF_RINGBUF_DISCARD_BIT, __ATOMIC_RELEASE);
			__atomic_store_n(&s->pending[i].owner, 0, __ATOMIC_RELEASE);
			owner = 0;
		}
		if (!owner && got == PENDING)
			got = i;
	}
	if (got == PENDING && used < PENDING) {
		got = used;
		s->used = used + 1;
	}
	return got;
}

/* A record of a size at a position, in an entry's hand. */
static inline struct record *put(const struct shim_map_desc *d, struct state *s, u32 entry, u64 pos,
				 u64 size, u32 owner)
{
	struct record *r = record_at(d, pos);

	s->pending[entry].pos = pos;
	r->place = entry;
	__atomic_store_n(&r->len, (u32)size | BPF_RINGBUF_BUSY_BIT, __ATOMIC_RELEASE);
	__atomic_store_n(&s->pending[entry].owner, owner, __ATOMIC_RELEASE);
	__atomic_store_n(producer(d), pos + round_up(size + HDR, 8), __ATOMIC_RELEASE);
	return r;
}

static inline void *reserve(const struct shim_map_desc *d, struct state *s, u64 size, u32 owner)
{
	u64 len = round_up(size + HDR, 8), pos = __atomic_load_n(producer(d), __ATOMIC_RELAXED);
	u64 used = pos - __atomic_load_n(consumer(d), __ATOMIC_ACQUIRE);
	u32 entry = take_any(d, s);

	/* the kernel leaves one byte: full is not empty */
	if (entry == PENDING || used > d->max_entries || d->max_entries - used <= len)
		return 0;
	return put(d, s, entry, pos, size, owner) + 1;
}

static bool inside(const struct shim_map_desc *d, const struct record *r)
{
	return (u64)r - d->base - DATA < d->max_entries;
}

/* Which rings a run has reserved in: its scratch, so that a commit takes no address from shared
 * memory. What is behind the first 0 there is nobody's. False: more different rings than that. */
static bool remember(const struct shim_map_desc *d, struct shim_run *run)
{
	for (u32 i = 0; i < RINGS; i++) {
		if (!run->scratch[i]) {
			run->scratch[i] = (u64)d;
			if (i + 1 < RINGS)
				run->scratch[i + 1] = 0;
		}
		if (run->scratch[i] == (u64)d)
			return true;
	}
	return false;
}

static const struct shim_map_desc *ring_of(const struct record *r, const struct shim_run *run)
{
	for (u32 i = 0; i < RINGS && run->scratch[i]; i++) {
		const struct shim_map_desc *d = (const void *)run->scratch[i];

		if (inside(d, r))
			return d;
	}
	return 0;
}

static __attribute__((noinline)) void *reserve_any(const struct shim_map_desc *d, u64 size,
						   struct shim_run *run)
{
	struct state *s = desc_at(d, d->state_off);
	void *got;

	if (d->type != BPF_MAP_TYPE_RINGBUF || size > d->max_entries ||
	    round_up(size + HDR, 8) > d->max_entries || !remember(d, run))
		return 0;
	if (run_lock(&s->lock, run) < 0)
		return 0;
	got = reserve(d, s, size, run->owner);
	run_unlock(&s->lock, run);
	return got;
}

/* The usual one: the run's first ring, its lock had at the first try, and nobody in its hand. What is not
 * usual is reserve_any()'s, before anything has been done; so here nothing is called, and nothing saved. */
void *ringbuf_reserve(const struct shim_map_desc *d, u64 size, struct shim_run *run)
{
	struct state *s = desc_at(d, d->state_off);
	u64 pos, used, first = run->scratch[0];
	struct record *r = 0;

	if (d->type != BPF_MAP_TYPE_RINGBUF || size > d->max_entries - HDR ||
	    (first && first != (u64)d))
		return reserve_any(d, size, run);
	run_holds(run, 1);
	if (!inner_lock(&s->lock, run->owner)) {
		run_holds(run, -1u);
		return reserve_any(d, size, run);
	}
	if (READ_ONCE(s->used) != 1 || __atomic_load_n(&s->pending[0].owner, __ATOMIC_ACQUIRE)) {
		run_unlock(&s->lock, run);
		return reserve_any(d, size, run);
	}
	if (!first) {
		run->scratch[0] = (u64)d;
		run->scratch[1] = 0;
	}
	pos = __atomic_load_n(producer(d), __ATOMIC_RELAXED);
	used = pos - __atomic_load_n(consumer(d), __ATOMIC_ACQUIRE);
	if (__builtin_expect(used <= d->max_entries && d->max_entries - used > round_up(size + HDR, 8),
			     1))
		r = put(d, s, 0, pos, size, run->owner) + 1;
	run_unlock(&s->lock, run);
	return r;
}

/* d: where it lies. */
static inline u64 commit(const struct shim_map_desc *d, struct record *r, u64 flags, u32 discard,
			 struct shim_run *run)
{
	u32 len = (r->len & ~BPF_RINGBUF_BUSY_BIT) | discard * BPF_RINGBUF_DISCARD_BIT;
	struct state *s = desc_at(d, d->state_off);

	__atomic_store_n(&s->pending[r->place % PENDING].owner, 0, __ATOMIC_RELEASE);
	if ((flags & (BPF_RB_NO_WAKEUP | BPF_RB_FORCE_WAKEUP)) == BPF_RB_NO_WAKEUP) {
		__atomic_store_n(&r->len, len, __ATOMIC_RELEASE);
		return 0;
	}
	__atomic_exchange_n(&r->len, len, __ATOMIC_ACQ_REL);
	if (flags & BPF_RB_FORCE_WAKEUP ||
	    record_at(d, __atomic_load_n(consumer(d), __ATOMIC_ACQUIRE)) == r)
		shim_wake((struct shim_ctl *)run->ctl);
	return 0;
}

static __attribute__((noinline)) u64 commit_any(struct record *r, u64 flags, u32 discard,
						struct shim_run *run)
{
	const struct shim_map_desc *d = ring_of(r, run);

	return d ? commit(d, r, flags, discard, run) : 0;
}

u64 ringbuf_commit(void *sample, u64 flags, u32 discard, struct shim_run *run)
{
	const struct shim_map_desc *d = (const void *)run->scratch[0];
	struct record *r = (struct record *)sample - 1;

	return d && inside(d, r) ? commit(d, r, flags, discard, run)
				 : commit_any(r, flags, discard, run);
}

long ringbuf_output(const struct shim_map_desc *d, const void *data, u64 size, u64 flags,
		    struct shim_run *run)
{
	void *sample;

	if (flags & ~(u64)(BPF_RB_NO_WAKEUP | BPF_RB_FORCE_WAKEUP))
		return -EINVAL;
	sample = ringbuf_reserve(d, size, run);
	if (!sample)
		return -EAGAIN;
	memcpy(sample, data, size);
	ringbuf_commit(sample, flags, 0, run);
	return 0;
}

u64 shim_ringbuf_avail(const struct shim_map_desc *d)
{
	u64 prod = __atomic_load_n(producer(d), __ATOMIC_ACQUIRE);

	return prod - __atomic_load_n(consumer(d), __ATOMIC_ACQUIRE);
}

u32 shim_ringbuf_ready(const struct shim_map_desc *d)
{
	u64 avail = shim_ringbuf_avail(d);

	return d->type == BPF_MAP_TYPE_RINGBUF ? avail != 0 : avail < d->max_entries;
}

u64 ringbuf_query(const struct shim_map_desc *d, u64 what)
{
	switch (what) {
	case BPF_RB_AVAIL_DATA: return shim_ringbuf_avail(d);
	case BPF_RB_RING_SIZE: return d->max_entries;
	case BPF_RB_CONS_POS: return __atomic_load_n(consumer(d), __ATOMIC_ACQUIRE);
	case BPF_RB_PROD_POS: return __atomic_load_n(producer(d), __ATOMIC_ACQUIRE);
	default: return 0;
	}
}

/* Elements there are none: ENOTSUPP, which is what absent reads are as well. */
static long del(const struct shim_map_desc *d, const void *key, struct shim_run *run)
{
	(void)d, (void)key, (void)run;
	return -ENOTSUPP_;
}

static long sys_update(const struct shim_map_desc *d, const void *key, const void *value, u64 flags,
		       struct shim_run *run)
{
	(void)d, (void)key, (void)value, (void)flags, (void)run;
	return -ENOTSUPP_;
}

const struct map_ops ringbuf_ops = {
	.layout = layout,
	.check = check,
	.del = del,
	.sys_update = sys_update,
};
