/*
 * Locks in shared memory that survive kill -9 of their owner, and whether an owner is dead.
 *
 * A word is 0 or an owner word. The dead are found by generation (the backend has freed the slot)
 * or, where there is no backend to tell, by looking for the process; never on the fast path.
 */
#include "runtime.h"

enum { NR_SCHED_YIELD = 24, NR_KILL = 62, NR_CLOCK_MONOTONIC = 1, E_SRCH = 3 };
enum { SPINS = 200, LOOK_NS = 100000, LIMIT_NS = 1000000000 };

bool owner_dead(struct shim_ctl *ctl, u32 owner)
{
	const struct shim_slot *slot = &ctl->slot[owner >> SHIM_OWNER_SLOT_SHIFT];
	u32 gen = owner >> SHIM_OWNER_GEN_SHIFT & ((1u << SHIM_OWNER_GEN_BITS) - 1);
	u32 state = __atomic_load_n(&slot->state, __ATOMIC_ACQUIRE);

	if (slot->gen != gen || state == SHIM_SLOT_DEAD || state == SHIM_SLOT_FREE)
		return true;
	return state == SHIM_SLOT_LIVE && process_gone(slot->pid, slot->start_time);
}

void wait_begin(struct wait *w)
{
	w->tries = 0;
	w->until = 0;
	w->look = 0;
}

bool wait_more(struct wait *w, bool *look)
{
	u64 now;

	*look = false;
	if (++w->tries < SPINS) {
		__asm__ volatile("pause");
		return true;
	}
	now = clock_ns(NR_CLOCK_MONOTONIC);
	if (!w->until) {
		w->until = now + LIMIT_NS;
		w->look = now + LOOK_NS;
	}
	if (now >= w->look) {
		*look = true;
		w->look = now + (now - (w->until - LIMIT_NS));
	}
	shim_sys0(NR_SCHED_YIELD);
	return now < w->until;
}

long shim_lock(u32 *lock, struct shim_ctl *ctl, u32 owner)
{
	u32 seen = 0;
	struct wait w;
	bool look;

	if (__atomic_compare_exchange_n(lock, &seen, owner, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
		return 0;
	wait_begin(&w);
	while (wait_more(&w, &look)) {
		seen = __atomic_load_n(lock, __ATOMIC_RELAXED);
		if (seen && !(look && owner_dead(ctl, seen)))
			continue;
		if (__atomic_compare_exchange_n(lock, &(u32){ seen }, owner, false, __ATOMIC_ACQUIRE,
						__ATOMIC_RELAXED))
			return seen != 0;
	}
	return -EBUSY;
}

void shim_unlock(u32 *lock, u32 owner)
{
	(void)owner;
	__atomic_store_n(lock, 0, __ATOMIC_RELEASE);
}

bool process_gone(u32 pid, u64 start_time)
{
	(void)start_time;
	return pid && shim_sys2(NR_KILL, pid, 0) == -E_SRCH;
}

static void held(struct shim_run *run, u32 change)
{
	struct shim_thread *t = (struct shim_thread *)run->thread;

	if (t)
		__atomic_store_n(&t->locks_held, t->locks_held + change, __ATOMIC_RELAXED);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
}

long run_lock(u32 *lock, struct shim_run *run)
{
	long ret;

	held(run, 1);
	ret = shim_lock(lock, (struct shim_ctl *)run->ctl, run->owner);
	if (ret < 0)
		held(run, -1u);
	return ret;
}

void run_unlock(u32 *lock, struct shim_run *run)
{
	shim_unlock(lock, run->owner);
	held(run, -1u);
}
