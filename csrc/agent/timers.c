/*
 * Timers of the threads' CPU clocks (timer_create(2), SIGEV_THREAD_ID), in a table by thread and number.
 */
#include "state.h"
#include "timers.h"

enum {
	NR_TIMER_CREATE = 222,
	NR_TIMER_SETTIME = 223,
	NR_TIMER_DELETE = 226,
	NR_NEWFSTATAT = 262,
	AT_FDCWD_ = -100,
	SIGEV_THREAD_ID_ = 4,
	TIMERS = 4096,
	TRIES = 64, /* places of one thread and number */
};

struct tick_timer {
	u32 tid; /* 0: free */
	u16 number;
	u16 seen; /* in the look so and so */
	s32 id;
};

struct itimerspec64 {
	s64 every[2], first[2]; /* s, ns */
};

struct sigevent64 {
	u64 value;
	s32 signo, notify, tid;
	s32 pad[11];
};
_Static_assert(sizeof(struct sigevent64) == 64, "struct sigevent");

static struct {
	struct tick_timer *all; /* TIMERS of them */
	u64 every[AGENT_TIMER_NUMBERS]; /* ns; 0: it does not tick */
	u32 signo[AGENT_TIMER_NUMBERS];
	u32 look; /* number of the last one */
	u32 links; /* of /proc/self/task, then */
} timers;

long agent_timers_tables(void)
{
	if (!timers.all)
		timers.all = (void *)agent_map_anon(TIMERS * sizeof(struct tick_timer));
	return timers.all ? 0 : -E_NOMEM;
}

static long set_time(s32 id, u64 first, u64 every)
{
	struct itimerspec64 t = { { (s64)(every / 1000000000), (s64)(every % 1000000000) },
				  { (s64)(first / 1000000000), (s64)(first % 1000000000) } };

	return shim_sys4(NR_TIMER_SETTIME, id, 0, &t, 0);
}

/* id of a new timer of a thread's CPU clock, or -errno. */
static long make(u32 tid, u32 number)
{
	struct sigevent64 event = { 0 };
	s32 id = -1;
	long err;

	event.value = (u64)AGENT_TIMER_MAGIC << 32 | number;
	event.signo = (s32)timers.signo[number];
	event.notify = SIGEV_THREAD_ID_;
	event.tid = (s32)tid;
	/* the clock's number: ~tid, CPUCLOCK_PERTHREAD_MASK | CPUCLOCK_SCHED */
	err = shim_sys3(NR_TIMER_CREATE, (s64)(s32)(~tid << 3 | 6), &event, &id);
	return err ? err : id;
}

static u32 home(u32 tid, u32 number)
{
	return (tid * 0x9e3779b1u >> 8) + number * 97;
}

/* The timer of a thread for a number, or the place for it; NULL: there is no room. */
static struct tick_timer *place(u32 tid, u32 number)
{
	struct tick_timer *free = NULL;
	u32 at = home(tid, number);

	for (u32 n = 0; n < TRIES; n++, at++) {
		struct tick_timer *t = &timers.all[at % TIMERS];

		if (t->tid == tid && t->number == number)
			return t;
		if (!t->tid && !free)
			free = t;
	}
	return free;
}

/* A thread's first tick comes after a part of the period, so that threads with little time of their
 * own are met as often as their share is. */
static u64 phase(u32 tid, u64 period)
{
	u64 x = __builtin_ia32_rdtsc() + tid;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	return period / 1024 * (x >> 40 & 1023) + 1;
}

static long ensure_one(u32 tid, u32 number)
{
	struct tick_timer *t = place(tid, number);
	long id;

	if (t && !t->tid) {
		id = make(tid, number);
		if (id < 0)
			return id == -E_INVAL ? 0 : id; /* the thread is gone */
		t->tid = tid;
		t->number = (u16)number;
		t->id = (s32)id;
		set_time(t->id, phase(tid, timers.every[number]), timers.every[number]);
	}
	if (t)
		t->seen = (u16)timers.look;
	return 0;
}

long agent_timers_ensure(u32 tid)
{
	long err = 0;

	for (u32 n = 0; n < AGENT_TIMER_NUMBERS && !err; n++)
		if (timers.every[n])
			err = ensure_one(tid, n);
	return err;
}

static void drop(struct tick_timer *t)
{
	shim_sys1(NR_TIMER_DELETE, t->id);
	t->tid = 0;
}

void agent_timers_set(u32 number, u32 signo, u64 every)
{
	timers.signo[number] = signo;
	timers.every[number] = every;
}

void agent_timers_drop(u32 number)
{
	timers.every[number] = 0;
	for (u32 i = 0; i < TIMERS && timers.all; i++)
		if (timers.all[i].tid && timers.all[i].number == number)
			drop(&timers.all[i]);
}

/* nlink of /proc/self/task: two more than there are threads. */
static u32 nr_links(void)
{
	u64 st[18];

	return shim_sys4(NR_NEWFSTATAT, AT_FDCWD_, "/proc/self/task", st, 0) ? 0 : (u32)st[2];
}

int agent_timers_stale(void)
{
	return nr_links() != timers.links;
}

struct entry {
	u64 ino;
	s64 off;
	u16 reclen;
	u8 type;
	char name[];
};

long agent_timers_look(void)
{
	char buf[1024] __attribute__((aligned(8)));
	long fd, len = 0, err = 0;

	timers.links = nr_links();
	timers.look++;
	fd = shim_sys3(NR_OPEN, "/proc/self/task", O_DIRECTORY_ | O_CLOEXEC_, 0);
	if (fd < 0)
		return agent_timers_ensure((u32)shim_sys0(NR_GETTID));
	while ((len = shim_sys3(NR_GETDENTS64, fd, buf, sizeof(buf))) > 0)
		for (long at = 0; at < len; at += ((struct entry *)(buf + at))->reclen) {
			const char *s = ((struct entry *)(buf + at))->name;
			u32 tid = 0;

			for (; *s >= '0' && *s <= '9'; s++)
				tid = tid * 10 + (u32)(*s - '0');
			tid = agent_task_own(tid);
			if (tid && agent_timers_ensure(tid))
				err = -E_AGAIN;
		}
	shim_sys1(NR_CLOSE, fd);
	for (u32 i = 0; i < TIMERS && !len; i++)
		if (timers.all[i].tid && timers.all[i].seen != (u16)timers.look)
			drop(&timers.all[i]);
	return err;
}

void agent_timers_forget(void)
{
	if (timers.all)
		agent_zero(timers.all, TIMERS * sizeof(struct tick_timer));
}

void agent_timers_end(void)
{
	for (u32 n = 0; n < AGENT_TIMER_NUMBERS; n++)
		agent_timers_drop(n);
	agent_zero(&timers, sizeof(timers));
}
