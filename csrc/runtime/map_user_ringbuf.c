/*
 * BPF_MAP_TYPE_USER_RINGBUF: the process writes records, bpf_user_ringbuf_drain gives each to a
 * function of the program. Laid out as RINGBUF (map_ringbuf.c). Nothing in it is trusted: positions
 * and lengths are checked when they are read, and a sample is used by what was read once.
 *
 * One thread drains at a time. A drain that does not end (its run was abandoned by a longjmp, its
 * process died) is known by its owner. Source: kernel/bpf/ringbuf.c.
 */
#include "helpers.h"

enum { DATA = 2 * SHIM_PAGE, HDR = BPF_RINGBUF_HDR_SZ, MOST = 128 << 10 /* samples a call */ };
enum { MAX_SAMPLE = (1 << 24) - 1 /* DYNPTR_MAX_SIZE */ };

/* In the place of map_ringbuf.c's. */
struct state {
	u32 busy; /* owner word of who drains */
	u32 pad;
	u64 run; /* its shim_run, by address: one that drains inside its own drain is told */
};

/* One sample, as its header was read. */
struct sample {
	u64 pos;
	u32 size; /* of the data */
	u32 flags;
};

static u64 *consumer(const struct shim_map_desc *d)
{
	return desc_at(d, 0);
}

static u64 step(const struct sample *s)
{
	return round_up((u64)s->size + HDR, 8);
}

/* Is the drain that a word of this thread's own stands for over? Not if it is the run's own, or of
 * a run that this one interrupted. */
static bool abandoned(const struct state *s, const struct shim_run *run)
{
	const struct shim_thread *t = (const struct shim_thread *)run->thread;

	return s->run != (u64)run && !(t && t->outer_sp);
}

static bool begin(struct state *s, struct shim_run *run)
{
	u32 seen = __atomic_load_n(&s->busy, __ATOMIC_RELAXED);

	if (seen == run->owner ? !abandoned(s, run)
			       : seen && !owner_dead((struct shim_ctl *)run->ctl, seen))
		return false;
	if (!__atomic_compare_exchange_n(&s->busy, &seen, run->owner, false, __ATOMIC_ACQUIRE,
					 __ATOMIC_RELAXED))
		return false;
	__atomic_store_n(&s->run, (u64)run, __ATOMIC_RELAXED);
	return true;
}

/* The next sample. 0, -ENODATA: there is none, or it is being written; -EINVAL, -E2BIG. */
static long peek(const struct shim_map_desc *d, struct sample *s)
{
	u64 end = __atomic_load_n((u64 *)desc_at(d, SHIM_PAGE), __ATOMIC_ACQUIRE);
	u32 header;

	if (end % 8)
		return -EINVAL;
	s->pos = __atomic_load_n(consumer(d), __ATOMIC_ACQUIRE) & ~7ull;
	if (s->pos >= end)
		return -ENODATA;
	header = __atomic_load_n((u32 *)desc_at(d, DATA + (s->pos & (d->max_entries - 1))),
				 __ATOMIC_ACQUIRE);
	s->flags = header & (BPF_RINGBUF_BUSY_BIT | BPF_RINGBUF_DISCARD_BIT);
	s->size = header & ~s->flags;
	if (step(s) > end - s->pos)
		return -EINVAL;
	if (step(s) > d->max_entries || s->size > MAX_SAMPLE)
		return -E2BIG;
	/* what is discarded is so whether it was busy or not */
	return s->flags == BPF_RINGBUF_BUSY_BIT ? -ENODATA : 0;
}

static long drain(const struct shim_map_desc *d, u64 callback, u64 context, struct shim_run *run)
{
	u64 mask = d->max_entries - 1, stop = 0;
	struct dynptr data;
	long taken = 0, err = 0;
	struct sample s;

	for (u32 i = 0; i < MOST && !stop && !err; i++) {
		err = peek(d, &s);
		if (err)
			break;
		if (!(s.flags & BPF_RINGBUF_DISCARD_BIT)) {
			data = (struct dynptr){ (u64)desc_at(d, DATA + ((s.pos + HDR) & mask)), s.size,
						0 };
			stop = shim_callback(callback, run, (u64)&data, context, 0, 0);
			taken++;
		}
		__atomic_store_n(consumer(d), s.pos + step(&s), __ATOMIC_RELEASE);
	}
	return err && err != -ENODATA ? err : taken;
}

HELPER(user_ringbuf_drain)
{
	const struct shim_map_desc *d = (const struct shim_map_desc *)r1;
	struct state *s = desc_at(d, d->state_off);
	u64 before;
	long ret;

	UNUSED(r5);
	if (r4 & ~(u64)(BPF_RB_NO_WAKEUP | BPF_RB_FORCE_WAKEUP))
		return (u64)-EINVAL;
	if (!begin(s, run))
		return (u64)-EBUSY;
	before = *consumer(d);
	ret = drain(d, r2, r3, run);
	shim_unlock(&s->busy, run->owner);
	if (r4 & BPF_RB_FORCE_WAKEUP || (!(r4 & BPF_RB_NO_WAKEUP) && *consumer(d) != before))
		shim_wake((struct shim_ctl *)run->ctl);
	return (u64)ret;
}
