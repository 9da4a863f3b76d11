/*
 * bpf_timer in this process: a table of callbacks by the address of their timer, and a thread that is
 * there while one of them is armed. Programs with timers run where PROG_TEST_RUN does, so only
 * loaders have any.
 */
#include <linux/futex.h>
#include <string.h>
#include <time.h>

#include "agent.h"
#include "surface.h"

enum { MAX_TIMERS = 256, DEADLK = 35 };

struct armed {
	u64 timer; /* address in the value; 0: free */
	u64 fn;
	const struct shim_map_desc *map;
	u64 at; /* of its clock, ns; 0: not armed */
	u32 clock;
	u32 prog_id;
	u32 pid; /* that set it: a fork child has none of them */
	u32 running;
	u32 tid; /* of the thread that runs it */
};

static struct armed table[MAX_TIMERS]; /* under self->table_lock */
static u32 seq; /* futex: bumped when a timer is armed */
static u32 thread_pid; /* of the process whose thread it is; 0: there is none */

static u64 now_ns(u32 clock)
{
	struct timespec t = { 0 };

	shim_sys2(SYS_clock_gettime, clock, &t);
	return (u64)t.tv_sec * 1000000000ULL + (u64)t.tv_nsec;
}

static struct armed *find(u64 timer, u32 pid)
{
	for (u32 i = 0; i < MAX_TIMERS; i++)
		if (table[i].timer == timer && table[i].pid == pid)
			return &table[i];
	return NULL;
}

static long set(u64 timer, u64 fn, const struct shim_map_desc *map, const struct shim_run *run)
{
	u64 mask = surface_lock(&surface.self->table_lock);
	u32 pid = load_acquire(&surface.self->pid);
	struct armed *a = find(timer, pid);
	long err = 0;

	for (u32 i = 0; !a && i < MAX_TIMERS; i++)
		if (!table[i].timer || table[i].pid != pid || (!table[i].at && !table[i].running))
			a = &table[i];
	if (!a)
		err = -ENOMEM;
	else if (a->timer != timer || a->pid != pid)
		*a = (struct armed){ .timer = timer, .pid = pid };
	if (a) {
		a->fn = fn;
		a->map = map;
		a->prog_id = run->prog_id;
	}
	surface_unlock(&surface.self->table_lock, mask);
	return err;
}

/* Takes what is due out, for a run; else until when (CLOCK_MONOTONIC, ns) there is nothing to do, 0
 * where nothing is armed. */
static u64 take_due(u32 pid, struct armed *out, u32 *index)
{
	u64 earliest = 0;

	for (u32 i = 0; i < MAX_TIMERS; i++) {
		struct armed *a = &table[i];
		u64 now, until;

		if (!a->timer || a->pid != pid || !a->at || a->running)
			continue;
		now = now_ns(a->clock);
		if (a->at <= now) {
			a->at = 0;
			a->running = 1;
			a->tid = (u32)shim_sys0(SYS_gettid);
			*out = *a;
			*index = i;
			return 1;
		}
		until = now_ns(CLOCK_MONOTONIC) + (a->at - now);
		if (!earliest || until < earliest)
			earliest = until;
	}
	*index = MAX_TIMERS;
	return earliest;
}

/* The value is still an element of its map, and its timer one that was inited. */
static void call_back(const struct armed *a)
{
	u64 value = a->timer - (a->map->timer_at - 1), retval;
	struct agent_callback call = { a->fn, (u64)a->map, 0, value };
	struct agent_run run = { surface.session_id, a->prog_id, SHIM_NO_VCPU, 1, 0, &call };
	u32 array_key;

	if (shim_timer_inited(a->timer) && !shim_map_key_of(a->map, value, &call.r2, &array_key))
		agent_run_prog(&run, &call, &retval);
}

static void *loop(void *unused)
{
	u32 pid = (u32)shim_sys0(SYS_getpid), index, was;
	struct armed due;
	u64 mask, until;

	(void)unused;
	for (;;) {
		struct timespec at;

		mask = surface_lock(&surface.self->table_lock);
		was = load_acquire(&seq);
		until = take_due(pid, &due, &index);
		if (!until)
			store_release(&thread_pid, 0);
		surface_unlock(&surface.self->table_lock, mask);
		if (!until)
			return NULL;
		if (index < MAX_TIMERS) {
			call_back(&due);
			mask = surface_lock(&surface.self->table_lock);
			table[index].running = 0;
			surface_unlock(&surface.self->table_lock, mask);
			continue;
		}
		at = (struct timespec){ (time_t)(until / 1000000000), (long)(until % 1000000000) };
		shim_sys6(SYS_futex, (long)&seq, FUTEX_WAIT_BITSET_PRIVATE, was, (long)&at, 0,
			  FUTEX_BITSET_MATCH_ANY);
	}
}

static long start(u64 timer, u32 clock, u64 ns, u32 absolute)
{
	u64 mask = surface_lock(&surface.self->table_lock), now = absolute ? 0 : now_ns(clock);
	u32 pid = load_acquire(&surface.self->pid);
	struct armed *a = find(timer, pid);
	bool alone = false;
	long err = a && a->fn ? 0 : -EINVAL;

	if (!err) {
		a->clock = clock;
		a->at = now + ns < now ? ~0ULL : now + ns;
		a->at += !a->at;
		alone = load_acquire(&thread_pid) != pid;
		store_release(&thread_pid, pid);
		__atomic_add_fetch(&seq, 1, __ATOMIC_ACQ_REL);
	}
	surface_unlock(&surface.self->table_lock, mask);
	if (err)
		return err;
	shim_sys3(SYS_futex, &seq, FUTEX_WAKE_PRIVATE, 1);
	if (alone && (err = surface_start_thread(loop)))
		store_release(&thread_pid, 0);
	return err;
}

/* 1: it was armed. Waits for a callback that runs, as hrtimer_cancel(); -EDEADLK: it is this one. */
static long cancel(u64 timer)
{
	u32 pid = load_acquire(&surface.self->pid), tid = (u32)shim_sys0(SYS_gettid), running = 1;
	struct timespec pause = { .tv_nsec = 100000 };
	long ret = 0;

	while (running) {
		u64 mask = surface_lock(&surface.self->table_lock);
		struct armed *a = find(timer, pid);

		running = a && a->running;
		if (running && a->tid == tid)
			ret = -DEADLK;
		else if (a) {
			ret |= a->at != 0;
			a->at = a->fn = 0;
		}
		surface_unlock(&surface.self->table_lock, mask);
		if (ret < 0)
			return ret;
		if (running)
			shim_sys2(SYS_nanosleep, &pause, 0);
	}
	return ret;
}

static const struct shim_timer_ops ops = { set, start, cancel };

void surface_timers_begin(void)
{
	shim_timers = &ops;
}
