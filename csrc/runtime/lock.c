/*
 * Locks in shared memory that survive kill -9 of their owner, and whether an owner is dead.
 *
 * A word is 0 or an owner word. The dead are found by generation (the backend has freed the slot)
 * or, where there is no backend to tell, by looking for the process; never on the fast path.
 */
#include "runtime.h"
#include "shim_names.h"

enum {
	NR_READ = 0,
	NR_OPEN = 2,
	NR_CLOSE = 3,
	NR_SCHED_YIELD = 24,
	NR_NANOSLEEP = 35,
	NR_KILL = 62,
	NR_CLOCK_MONOTONIC = 1,
	E_SRCH = 3
};
enum { SPINS = 200, YIELDS = 20, NAP_NS = 50000, LOOK_NS = 100000, LIMIT_NS = 1000000000 };

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
	if (w->tries < SPINS + YIELDS) {
		shim_sys0(NR_SCHED_YIELD);
	} else { /* a holder that was preempted needs the CPU: those who yield keep it from him */
		u64 nap[2] = { 0, NAP_NS };

		shim_sys2(NR_NANOSLEEP, nap, 0);
	}
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
	/* only one's own: a holder that was taken for dead has lost it */
	if (__atomic_load_n(lock, __ATOMIC_RELAXED) == owner)
		__atomic_store_n(lock, 0, __ATOMIC_RELEASE);
}

/* Of /proc/PID/stat, proc_pid_stat(5): fields 3, 20 and 22. */
struct stat_fields {
	char state;
	u64 threads, start_time;
};

enum { STAT_THREADS = 20, STAT_START = 22, STAT_ROOM = 512, OPEN_FLAGS = 02000000 /* O_CLOEXEC */ };

static void stat_path(char *out, u32 pid)
{
	char digits[10];
	u32 n = 0;

	memcpy(out, "/proc/", 6);
	out += 6;
	do
		digits[n++] = (char)('0' + pid % 10);
	while (pid /= 10);
	while (n)
		*out++ = digits[--n];
	memcpy(out, "/stat", 6);
}

/* The name is in parentheses and may hold any byte: fields count from the last ')'. */
static bool parse_stat(const char *text, long len, struct stat_fields *out)
{
	long at = len;
	u64 value = 0;
	u32 field = 3;

	while (at > 0 && text[at - 1] != ')')
		at--;
	if (!at || at + 1 >= len)
		return false;
	out->state = text[at + 1];
	for (at += 2; at < len; at++) {
		if (text[at] >= '0' && text[at] <= '9') {
			value = value * 10 + (u64)(text[at] - '0');
			continue;
		}
		if (text[at] != ' ')
			continue; /* a sign */
		if (field == STAT_THREADS)
			out->threads = value;
		if (field == STAT_START) {
			out->start_time = value;
			return true;
		}
		value = 0;
		field++;
	}
	return false;
}

/* ctl: whose backend is asked where /proc has other numbers here; NULL: nobody. */
static bool read_stat(struct shim_ctl *ctl, u32 pid, struct stat_fields *out)
{
	char path[24], text[STAT_ROOM];
	long fd, n;

	if (shim_names.foreign) {
		n = ctl ? shim_ask_file(ctl, pid, "stat", text, sizeof(text)) : 0;
		return n > 0 && parse_stat(text, n, out);
	}
	stat_path(path, pid);
	fd = shim_sys3(NR_OPEN, path, OPEN_FLAGS, 0);
	if (fd < 0)
		return false;
	n = shim_sys3(NR_READ, fd, text, sizeof(text));
	shim_sys1(NR_CLOSE, fd);
	return n > 0 && parse_stat(text, n, out);
}

u64 thread_start(struct shim_ctl *ctl, u32 tid)
{
	struct stat_fields now = { .start_time = 0 };

	return read_stat(ctl, tid, &now) ? now.start_time : 0;
}

bool process_gone(u32 pid, u64 start_time)
{
	struct stat_fields now;

	if (!pid || shim_names.foreign) /* the backend sees it */
		return false;
	if (shim_sys2(NR_KILL, pid, 0) == -E_SRCH)
		return true;
	if (!read_stat(0, pid, &now))
		return false;
	/* a leader that has ended before its threads is a zombie too */
	if ((now.state == 'Z' || now.state == 'X') && now.threads <= 1)
		return true;
	return start_time && now.start_time != start_time;
}

/* A word that is this thread's already is of a run that a longjmp abandoned: nobody else has it,
 * and no run nests inside one that holds a lock. */
static bool abandoned(const u32 *lock, const struct shim_run *run)
{
	return run->thread && __atomic_load_n(lock, __ATOMIC_RELAXED) == run->owner;
}

long run_lock_waiting(u32 *lock, struct shim_run *run)
{
	long ret;

	run_holds(run, 1);
	if (__builtin_expect(abandoned(lock, run), 0))
		return 1;
	ret = shim_lock(lock, (struct shim_ctl *)run->ctl, run->owner);
	if (ret < 0)
		run_holds(run, -1u);
	return ret;
}
