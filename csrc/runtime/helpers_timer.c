/*
 * bpf_timer: the 16 bytes in the value say that it is there and by which clock it runs; who calls
 * back, and when, is this process's to know (shim_timers), since a callback is an address in it.
 * Source of checks: kernel/bpf/helpers.c, bpf_timer_init() and on.
 */
#include "helpers.h"

const struct shim_timer_ops *shim_timers;

/* struct bpf_timer */
struct timer {
	u32 clock; /* + 1; 0: not inited */
	u32 owner; /* of the run that inited it: it goes with that process */
	u32 pad[2];
};

enum { MAX_CLOCKS = 16, REALTIME = 0, MONOTONIC = 1, BOOTTIME = 7 };
enum { START_FLAGS = 3 /* BPF_F_TIMER_ABS, BPF_F_TIMER_CPU_PIN */ };

HELPER(timer_init)
{
	struct timer *t = (struct timer *)r1;
	u32 none = 0;

	UNUSED(r2, r4, r5);
	if (r3 >= MAX_CLOCKS || (r3 != REALTIME && r3 != MONOTONIC && r3 != BOOTTIME))
		return (u64)-EINVAL;
	if (!__atomic_compare_exchange_n(&t->clock, &none, (u32)r3 + 1, false, __ATOMIC_ACQ_REL,
					 __ATOMIC_RELAXED)) {
		if (!t->owner || !owner_dead((struct shim_ctl *)run->ctl, t->owner))
			return (u64)-EBUSY;
		__atomic_store_n(&t->clock, (u32)r3 + 1, __ATOMIC_RELEASE);
	}
	t->owner = run->owner;
	return 0;
}

static u32 clock_of(u64 timer)
{
	return __atomic_load_n(&((struct timer *)timer)->clock, __ATOMIC_ACQUIRE);
}

/* r5: the descriptor of the timer's map (jit/tier1.py). */
HELPER(timer_set_callback)
{
	UNUSED(r3, r4);
	if (!clock_of(r1))
		return (u64)-EINVAL;
	if (!shim_timers || !r5)
		return (u64)-EOPNOTSUPP;
	return (u64)shim_timers->set(r1, r2, (const struct shim_map_desc *)r5, run);
}

HELPER(timer_start)
{
	u32 clock = clock_of(r1);

	UNUSED(r4, r5, (u64)run);
	if (r3 & ~(u64)START_FLAGS || !clock)
		return (u64)-EINVAL;
	if (!shim_timers)
		return (u64)-EOPNOTSUPP;
	return (u64)shim_timers->start(r1, clock - 1, r2, r3 & 1);
}

HELPER(timer_cancel)
{
	UNUSED(r2, r3, r4, r5, (u64)run);
	if (!clock_of(r1))
		return (u64)-EINVAL;
	return shim_timers ? (u64)shim_timers->cancel(r1) : (u64)-EOPNOTSUPP;
}

u32 shim_timer_inited(u64 timer)
{
	return clock_of(timer) != 0;
}
