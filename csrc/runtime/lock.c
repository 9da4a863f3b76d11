/*
 * Locks in shared memory that survive kill -9 of their owner, and waiting for what is owned.
 *
 * A word is 0 or an owner word (holder.c says whose). Each wait is bounded, for who holds something may
 * stand still for good: stopped, or in a signal handler that waits for the waiter. Time alone says
 * nothing of that: on a machine with much to do a thread that holds something has the CPU again after
 * seconds. So a waiter whose second is over looks whether a holder goes on, and then waits for
 * another one; how long in all is bounded too, for a handler that spins goes on as well.
 */
#include "runtime.h"

enum { NR_SCHED_YIELD = 24, NR_NANOSLEEP = 35, NR_CLOCK_MONOTONIC = 1 };
enum { SPINS = 200, YIELDS = 20, NAP_NS = 50000, LOOK_NS = 100000, YIELDS_NS = 1000000 };
enum { LIMIT_NS = 1000000000, LIMITS = 10 };

void wait_begin(struct wait *w, struct shim_ctl *ctl, u32 self)
{
	*w = (struct wait){ .ctl = ctl, .self = self };
}

static bool goes_on(const struct wait *w)
{
	return w->nr && w->limits < LIMITS && holders_go_on(w->ctl, w->word, w->nr, w->self);
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
	if (!w->began) {
		w->began = now;
		w->until = now + LIMIT_NS;
		w->look = now + LOOK_NS;
	}
	if (now >= w->look) {
		*look = true;
		w->look = now + (now - w->began);
	}
	if (now >= w->until) {
		w->limits++;
		if (!goes_on(w))
			return false;
		w->until = clock_ns(NR_CLOCK_MONOTONIC) + LIMIT_NS;
	} else if (w->tries < SPINS + YIELDS && now - w->began < YIELDS_NS) {
		shim_sys0(NR_SCHED_YIELD);
	} else { /* a holder that was preempted needs the CPU: those who yield keep it from him */
		u64 nap[2] = { 0, NAP_NS };

		shim_sys2(NR_NANOSLEEP, nap, 0);
	}
	return true;
}

static long lock_waiting(u32 *lock, struct wait *w)
{
	u32 seen, owner = w->self;
	bool look;

	while (wait_more(w, &look)) {
		seen = __atomic_load_n(lock, __ATOMIC_RELAXED);
		if (seen && !(look && owner_dead(w->ctl, seen)))
			continue;
		if (__atomic_compare_exchange_n(lock, &(u32){ seen }, owner, false, __ATOMIC_ACQUIRE,
						__ATOMIC_RELAXED))
			return seen != 0;
	}
	return -EBUSY;
}

long shim_lock(u32 *lock, struct shim_ctl *ctl, u32 owner)
{
	struct wait w;

	if (__atomic_compare_exchange_n(lock, &(u32){ 0 }, owner, false, __ATOMIC_ACQUIRE,
					__ATOMIC_RELAXED))
		return 0;
	wait_begin(&w, ctl, owner);
	w.word = lock;
	w.nr = 1;
	return lock_waiting(lock, &w);
}

void shim_unlock(u32 *lock, u32 owner)
{
	/* only one's own: a holder that was taken for dead has lost it */
	if (__atomic_load_n(lock, __ATOMIC_RELAXED) == owner)
		__atomic_store_n(lock, 0, __ATOMIC_RELEASE);
}

/* A word that is this thread's already is of a run that a longjmp abandoned: nobody else has it,
 * and no run nests inside one that holds a lock. */
static bool abandoned(const u32 *lock, const struct shim_run *run)
{
	return run->thread && __atomic_load_n(lock, __ATOMIC_RELAXED) == run->owner;
}

static long run_lock_for(u32 *lock, struct shim_run *run, u32 nr)
{
	struct wait w;
	long ret;

	run_holds(run, 1);
	if (__builtin_expect(abandoned(lock, run), 0))
		return 1;
	wait_begin(&w, (struct shim_ctl *)run->ctl, run->owner);
	w.word = lock;
	w.nr = nr;
	ret = lock_waiting(lock, &w);
	if (ret < 0)
		run_holds(run, -1u);
	return ret;
}

long run_lock_waiting(u32 *lock, struct shim_run *run)
{
	return run_lock_for(lock, run, 1);
}

long run_lock_second(u32 *lock, struct shim_run *run)
{
	return run_trylock(lock, run) ? 0 : run_lock_for(lock, run, 0);
}
