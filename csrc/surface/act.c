/*
 * What a reply asks for: running a program in this process (testrun.c), and interval timers, which
 * run on one thread with absolute deadlines.
 */
#include <linux/futex.h>
#include <string.h>
#include <time.h>

#include "agent.h"
#include "surface.h"

enum { MAX_TIMERS = 64, SYNC_TRIES = 500 };

struct timer {
	struct shim_act_timer what; /* period_ns 0: free */
	u64 next; /* CLOCK_MONOTONIC, ns */
	u64 since;
};

static struct timer timers[MAX_TIMERS]; /* under self->table_lock */
static u32 timers_seq; /* futex: bumped when the table changes */

static u64 now_ns(void)
{
	struct timespec t;

	shim_sys2(SYS_clock_gettime, CLOCK_MONOTONIC, &t);
	return (u64)t.tv_sec * 1000000000ULL + (u64)t.tv_nsec;
}

/* Another conversation ends by itself. */
long surface_sync_agent(void)
{
	struct timespec pause = { .tv_nsec = 10000000 };
	char path[128];
	long err = -EBUSY;

	surface_join(path, sizeof(path), surface.dir, "/sock", "");
	for (u32 i = 0; i < SYNC_TRIES && err == -EBUSY; i++) {
		if (i)
			shim_sys2(SYS_nanosleep, &pause, 0);
		err = agent_sync(path, SHIM_SYNC_LOADER);
	}
	return err;
}

static bool backend_dead(void)
{
	return load_acquire(&surface.ctl->backend_lock[0]) & SHIM_BACKEND_DEAD;
}

/* Runs what is due, forgets what has ended; the earliest deadline, or 0 if nothing is left. */
static u64 run_due(void)
{
	struct agent_run run = { surface.session_id, 0, SHIM_NO_VCPU, 1, 0, NULL };
	struct shim_perf_data data = { 0 };
	u64 earliest = 0;

	for (u32 i = 0; i < MAX_TIMERS; i++) {
		struct timer *t = &timers[i];
		u64 period, mask = surface_lock(&surface.self->table_lock), retval;
		struct shim_act_timer what = t->what;
		bool due, live = what.period_ns && what.link < SHIM_MAX_LINKS && !backend_dead() &&
				 load_acquire(&surface.ctl->link[what.link].enabled);

		if (!live)
			t->what.period_ns = 0;
		period = t->what.period_ns;
		due = period && now_ns() >= t->next;
		if (due) /* as hrtimer_forward: periods that were slept through are left out */
			t->next += (1 + (now_ns() - t->next) / period) * period;
		if (period && (!earliest || t->next < earliest))
			earliest = t->next;
		surface_unlock(&surface.self->table_lock, mask);
		run.prog_id = what.prog_id;
		data.period = period;
		data.since = t->since;
		if (due && agent_run_prog(&run, &data, &retval))
			__atomic_add_fetch(&surface.ctl->link[what.link].missed, 1, __ATOMIC_RELAXED);
	}
	return earliest;
}

static void *timer_thread(void *unused)
{
	(void)unused;
	for (;;) {
		u32 seq = load_acquire(&timers_seq);
		u64 at = run_due();
		struct timespec until = { (time_t)(at / 1000000000), (long)(at % 1000000000) };

		shim_sys6(SYS_futex, (long)&timers_seq, FUTEX_WAIT_BITSET_PRIVATE, seq,
			  at ? (long)&until : 0, 0, FUTEX_BITSET_MATCH_ANY);
	}
	return NULL;
}

static void kick(void)
{
	__atomic_add_fetch(&timers_seq, 1, __ATOMIC_ACQ_REL);
	shim_sys3(SYS_futex, &timers_seq, FUTEX_WAKE_PRIVATE, 1);
}

/* One timer an event: a second START (DISABLE, ENABLE) takes the place of the first. */
static long timer_set(const struct shim_act_timer *what, bool on)
{
	u64 mask = surface_lock(&surface.self->table_lock);
	s32 at = -1;

	for (s32 i = 0; i < MAX_TIMERS; i++) {
		if (timers[i].what.period_ns && timers[i].what.event_ino == what->event_ino)
			timers[i].what.period_ns = 0;
		if (at < 0 && !timers[i].what.period_ns)
			at = i;
	}
	if (on && at >= 0) {
		timers[at].since = now_ns();
		timers[at].next = timers[at].since + what->period_ns;
		timers[at].what = *what;
	}
	surface_unlock(&surface.self->table_lock, mask);
	kick();
	return on && at < 0 ? -ENOSPC : 0;
}

static long timer_start(const struct shim_act_timer *what)
{
	long err = what->period_ns ? surface_sync_agent() : -EINVAL;
	u32 no = 0;

	if (!err)
		err = timer_set(what, true);
	if (err)
		return err;
	if (__atomic_compare_exchange_n(&surface.self->timer, &no, 1, false, __ATOMIC_ACQ_REL,
					__ATOMIC_ACQUIRE)) {
		err = surface_start_thread(timer_thread);
		if (err)
			store_release(&surface.self->timer, 0);
	}
	return err;
}

long surface_act(u32 action, const void *payload, size_t len, const u8 *attr, u64 uattr, long ret)
{
	struct shim_act_timer timer;
	struct shim_act_run run;
	long err;

	switch (action) {
	case SHIM_ACT_NONE: return ret;
	case SHIM_ACT_RUN:
		if (len < sizeof(run) || !attr)
			return -EIO;
		memcpy(&run, payload, sizeof(run));
		err = surface_test_run(&run, attr, uattr);
		return err ? err : ret;
	case SHIM_ACT_TIMER_START:
	case SHIM_ACT_TIMER_STOP:
		if (len < sizeof(timer))
			return -EIO;
		memcpy(&timer, payload, sizeof(timer));
		err = action == SHIM_ACT_TIMER_START ? timer_start(&timer) : timer_set(&timer, false);
		return err ? err : ret;
	default: return -EIO;
	}
}
