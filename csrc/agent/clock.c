/*
 * SHIM_EVENT_CLOCK: programs that run as a thread uses CPU time.
 *
 * Each thread has a timer of its own CPU clock (timer_create(2), SIGEV_THREAD_ID), so a thread that waits
 * is never disturbed, and the kernel makes the signal on the way back to user space, where no system call
 * is left to be interrupted. It is one of two that the C library keeps for itself, so that no
 * application can block it, wait for it or handle it: pthread_cancel()'s. A second, slow timer of each
 * thread has the other one's (glibc's for setuid(), whose handler comes with the first
 * pthread_create()). When the C library puts its own handler over one of ours, ticks of the other find
 * that, and ours goes before it.
 *
 * A signal to the process instead of one of its threads could wake a thread that waits, so new threads
 * are found otherwise: where they begin (agent_thread_begins), or by ticks of those that are there.
 *
 * Page faults are counted by the kernel for the process; each tick, now every FAULT_NS, makes good for
 * those that have come since the last one, and the end of the process for the rest.
 *
 * Ticks come at the machine's own ticks; what was missed between two of them (overrun) is made good for.
 * A clock that nobody is attached to any more takes its timers away at its next tick.
 */
#include "keys.h"
#include "state.h"
#include "clock.h"
#include "stays.h"
#include "timers.h"

enum {
	NR_SIGACTION = 13,
	NR_GETRUSAGE = 98,
	SA_FLAGS = 4 | 0x10000000 | 0x04000000, /* SIGINFO RESTART RESTORER */
	SA_ONSTACK_ = 0x08000000,
	SIG_BLOCK_ = 0,
	SIG_SETMASK_ = 2,
};

enum {
	CLOCKS = AGENT_CLOCKS,
	MOST_RUNS = 64, /* for one tick */
	WATCH_NS = 50000000,
	FAULT_NS = 4000000,
	MOST_FAULTS = 1 << 20, /* runs at once */
	PATIENCE = 1000, /* pauses of a thread that begins */
};

struct action {
	u64 handler, flags, restorer, mask;
};

/* asm/ucontext.h: what of a signal frame is wanted. r: r8 to r15, di, si, bp, bx, dx, ax, cx, sp, ip. */
struct context {
	u64 head[5];
	u64 r[17];
	u64 flags;
};

struct info {
	s32 signo, err, code, pad;
	s32 timer, overrun;
	u64 value;
};

static struct {
	u32 lock;
	u32 pid; /* whose timers these are */
	u32 signo;
	u32 flags;
	u64 period[CLOCKS]; /* ns, or page faults; 0: never used */
	u64 seen[CLOCKS]; /* page faults that have been told */
	u32 kind[CLOCKS];
	u64 since[CLOCKS]; /* it was armed: CLOCK_MONOTONIC, ns */
	u32 armed; /* a bit a clock */
} clocks;

u64 agent_tick_before[2] __attribute__((visibility("hidden"))); /* by signal % 2 */
void agent_tick_entry(int, struct info *, struct context *);
void agent_tick_restorer(void);
void agent_tick(int signo, struct info *info, struct context *uc) __attribute__((visibility("hidden")));

static const u64 all_signals = ~0ull;

/* With signals blocked: a handler that leaves by longjmp would keep the lock. */
static int begin(u64 *mask)
{
	u32 none = 0;

	shim_sys4(NR_SIGPROCMASK, SIG_BLOCK_, &all_signals, mask, 8);
	if (__atomic_compare_exchange_n(&clocks.lock, &none, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
		return 1;
	shim_sys4(NR_SIGPROCMASK, SIG_SETMASK_, mask, 0, 8);
	return 0;
}

static void end(const u64 *mask)
{
	agent_store(&clocks.lock, 0u);
	shim_sys4(NR_SIGPROCMASK, SIG_SETMASK_, mask, 0, 8);
}

static struct action before_action[2];

static void handler(u32 signo)
{
	struct action mine = { (u64)agent_tick_entry,
			       SA_FLAGS | (clocks.flags & SHIM_CLOCK_ONSTACK ? SA_ONSTACK_ : 0),
			       (u64)agent_tick_restorer, all_signals };
	struct action there = { 0 };

	if (shim_sys4(NR_SIGACTION, signo, 0, &there, 8) || there.handler == mine.handler)
		return;
	before_action[signo % 2] = there;
	agent_store(&agent_tick_before[signo % 2], there.handler);
	agent_quick_unseen(); /* programs run in ours, with the signals blocked */
	shim_sys4(NR_SIGACTION, signo, &mine, 0, 8);
}

static void handlers(void)
{
	handler(clocks.signo);
	handler(clocks.signo + 1);
}

/* Takes away what a clock that nobody needs has; with the last one, the slow timers too. */
static void disarm(u32 clock)
{
	clocks.armed &= ~(1u << clock);
	agent_timers_drop(clock);
	if (!clocks.armed)
		agent_timers_drop(AGENT_WATCH);
}

static struct shim_site *site_of(u32 clock)
{
	u32 index = agent_load(&shim_agent_root.event_site[SHIM_EVENT_CLOCK + clock]);

	return index && index <= SHIM_MAX_SITES ? &agent_sites()[index - 1] : NULL;
}

/* Has the clock a link of a session that lives? */
static int needed(u32 clock)
{
	struct shim_site *site = site_of(clock);

	for (u32 at = site ? agent_load(&site->first) : 0, n = 0; at && n < SHIM_MAX_SITE_LINKS; n++) {
		struct shim_site_link *link = &agent_links()[(at - 1) % SHIM_MAX_SITE_LINKS];
		struct shim_ctl
			*ctl = (void *)shim_agent_root.sessions[link->session % SHIM_MAX_SESSIONS].ctl;

		at = agent_load(&link->next);
		if (agent_load(&link->live) && ctl && !agent_shut(link->session) &&
		    !(agent_load(&ctl->backend_lock[0]) & SHIM_BACKEND_DEAD))
			return 1;
	}
	return 0;
}

static long number_of(const struct shim_agent_clock *msg)
{
	u32 free = CLOCKS;

	for (u32 i = 0; i < CLOCKS; i++) {
		if (clocks.period[i] == msg->period && clocks.kind[i] == msg->kind)
			return i;
		if (free == CLOCKS && !needed(i))
			free = i;
	}
	if (free == CLOCKS)
		return -E_NOSPC;
	disarm(free);
	clocks.period[free] = msg->period;
	clocks.kind[free] = msg->kind;
	return free;
}

/* Page faults of the process so far: all, or those without or with a read from a disk. */
static u64 faults(u32 kind)
{
	u64 usage[18] = { 0 }; /* struct rusage: minflt, majflt are words 8 and 9 */

	if (kind)
		shim_sys2(NR_GETRUSAGE, 0, usage);
	return (kind != SHIM_CLOCK_FAULTS_MAJ ? usage[8] : 0) +
	       (kind != SHIM_CLOCK_FAULTS_MIN ? usage[9] : 0);
}

/* How often the programs are to run for what has come since. */
static u64 faults_due(u32 clock)
{
	u64 seen = agent_load(&clocks.seen[clock]), now = faults(clocks.kind[clock]);
	u64 n = now > seen ? (now - seen) / clocks.period[clock] : 0;

	if (n > MOST_FAULTS)
		n = MOST_FAULTS;
	/* another thread's tick may have come first */
	return n && __atomic_compare_exchange_n(&clocks.seen[clock], &seen,
						seen + n * clocks.period[clock], 0, __ATOMIC_ACQ_REL,
						__ATOMIC_RELAXED)
		       ? n
		       : 0;
}

static void arm(u32 clock)
{
	agent_timers_set(clock, clocks.signo, clocks.kind[clock] ? FAULT_NS : clocks.period[clock]);
	agent_timers_set(AGENT_WATCH, clocks.signo + 1, WATCH_NS);
}

static long change(const struct shim_agent_clock *msg)
{
	long err = agent_timers_tables();

	if (err)
		return err;
	clocks.pid = (u32)shim_sys0(NR_GETPID);
	clocks.signo = msg->signo;
	clocks.flags = msg->flags;
	if (!msg->arm)
		return number_of(msg);
	if (!clocks.period[msg->index])
		return -E_INVAL;
	handlers();
	if (!(clocks.armed >> msg->index & 1)) {
		clocks.since[msg->index] = shim_now_ns();
		clocks.seen[msg->index] = faults(clocks.kind[msg->index]);
	}
	clocks.armed |= 1u << msg->index;
	arm(msg->index);
	return agent_timers_look();
}

long agent_clock(const struct shim_agent_clock *msg)
{
	u64 mask;
	long ret;

	if (msg->index >= CLOCKS || !msg->period || !msg->signo || msg->signo > 63)
		return -E_INVAL;
	if (!begin(&mask))
		return -E_BUSY;
	ret = change(msg);
	end(&mask);
	return ret;
}

/* A tick that waits to be delivered goes with SIG_IGN, which the C library's handler would have left
 * alone; none comes any more. */
static void withdraw(u32 signo)
{
	struct action there = { 0 }, ignore = { 1, SA_FLAGS, (u64)agent_tick_restorer, 0 };
	u64 before = agent_tick_before[signo % 2];

	if (shim_sys4(NR_SIGACTION, signo, 0, &there, 8) || there.handler != (u64)agent_tick_entry)
		return;
	if (before <= 1)
		shim_sys4(NR_SIGACTION, signo, &ignore, 0, 8);
	there = before <= 1 ? (struct action){ before, 0, 0, 0 } : before_action[signo % 2];
	shim_sys4(NR_SIGACTION, signo, &there, 0, 8);
}

void agent_clock_end(void)
{
	agent_timers_end();
	if (clocks.signo) {
		withdraw(clocks.signo);
		withdraw(clocks.signo + 1);
	}
	agent_zero(&clocks, sizeof(clocks));
}

void agent_clock_mute(void)
{
	u64 mask;

	for (u32 i = 0; i < PATIENCE && agent_load(&clocks.armed); i++) {
		if (begin(&mask)) {
			for (u32 clock = 0; clock < CLOCKS; clock++)
				if (clocks.armed >> clock & 1)
					disarm(clock);
			end(&mask);
			return;
		}
		agent_pause(i);
	}
}

void agent_clock_forked(void)
{
	u32 pid = (u32)shim_sys0(NR_GETPID);
	u64 mask;

	if (!clocks.armed || clocks.pid == pid)
		return;
	agent_store(&clocks.lock, 0u); /* its holder, if any, is a thread of the parent */
	if (!begin(&mask))
		return;
	clocks.pid = pid;
	agent_timers_forget();
	for (u32 i = 0; i < CLOCKS; i++)
		if (!needed(i))
			disarm(i);
		else
			clocks.seen[i] = faults(clocks.kind[i]);
	if (clocks.armed)
		agent_timers_ensure((u32)shim_sys0(NR_GETTID));
	end(&mask);
}

u64 agent_thread_begins(struct shim_pt_regs *regs, struct shim_site *site)
{
	u64 mask;

	(void)regs;
	(void)site;
	for (u32 i = 0; i < PATIENCE && agent_load(&clocks.armed); i++) {
		if (begin(&mask)) {
			handlers();
			agent_timers_ensure((u32)shim_sys0(NR_GETTID));
			end(&mask);
			return 0;
		}
		agent_pause(i);
	}
	return 0;
}

/* Have there come threads, or has the C library a handler? */
static void watch(void)
{
	u64 mask;

	if (!begin(&mask))
		return;
	handlers();
	if (agent_timers_stale())
		agent_timers_look();
	end(&mask);
}

/* struct bpf_perf_event_data, and behind it when the clock began, for bpf_perf_prog_read_value(). */
static void fill(struct shim_perf_data *data, const struct context *uc, u32 clock)
{
	const u64 *r = uc ? uc->r : NULL;

	data->period = clocks.period[clock];
	data->since = clocks.since[clock];
	if (!r)
		return;
	data->regs = (struct shim_pt_regs){
		.r15 = r[7],
		.r14 = r[6],
		.r13 = r[5],
		.r12 = r[4],
		.bp = r[10],
		.bx = r[11],
		.r11 = r[3],
		.r10 = r[2],
		.r9 = r[1],
		.r8 = r[0],
		.ax = r[13],
		.cx = r[14],
		.dx = r[12],
		.si = r[9],
		.di = r[8],
		.orig_ax = ~0ull,
		.ip = r[16],
		.cs = 0x33,
		.flags = uc->flags,
		.sp = r[15],
		.ss = 0x2b,
	};
}

static u64 times(u32 clock, u32 overrun)
{
	if (clocks.kind[clock])
		return faults_due(clock);
	return overrun < MOST_RUNS ? 1 + overrun : MOST_RUNS;
}

/* uc NULL: there is nobody to look at. */
static void run(u32 clock, u32 overrun, const struct context *uc)
{
	struct shim_thread *t = agent_thread();
	struct shim_perf_data data = { 0 };
	struct shim_site *site = site_of(clock);

	if (!t || !site)
		return;
	if (uc && t->guard_sp && !agent_abandoned(t->guard_sp, uc->r[15])) {
		agent_missed(site, SHIM_LINK_ENTRY); /* the time is a program's own */
		return;
	}
	for (u64 n = times(clock, overrun); n; n--) {
		fill(&data, uc, clock);
		agent_run_event(SHIM_EVENT_CLOCK + clock, &data, uc ? &data.regs : NULL);
	}
}

void agent_clock_last(void)
{
	u32 was_open = shim_key_open();

	for (u32 i = 0; i < CLOCKS && agent_load(&clocks.armed) >> i; i++)
		if (clocks.armed >> i & 1 && clocks.kind[i] && clocks.pid == (u32)shim_sys0(NR_GETPID))
			run(i, 0, NULL);
	shim_key_back(was_open);
}

void agent_tick(int signo, struct info *info, struct context *uc)
{
	u32 clock = (u32)info->value;
	u64 mask;

	(void)signo;
	if (clock == AGENT_WATCH || (clock < CLOCKS && needed(clock)))
		watch();
	if (clock < CLOCKS && needed(clock))
		run(clock, (u32)info->overrun, uc);
	else if (clock < CLOCKS && begin(&mask)) {
		if (!needed(clock)) /* it may have come to be since */
			disarm(clock);
		end(&mask);
	}
}
