/*
 * System calls: from a trampoline to the programs.
 *
 * Which call an exit belongs to is known by its site, where the number is always the same; else by
 * what its entry noted: (address behind the call, stack pointer), a few deep, since a signal
 * handler makes calls inside an interrupted one. A child of fork has its parent's notes; one of clone
 * with a stack of its own finds the call in a table by site. A note whose call is abandoned (longjmp)
 * goes with the next one that ends below it, or is pushed out.
 */
#include "hit.h"
#include "lean.inc"
#include "sys.h"
#include "func.h"
#include "proc.h"
#include "trap.h"

enum {
	NR_RT_SIGRETURN = 15,
	NR_CLONE = 56,
	NR_FORK = 57,
	NR_VFORK = 58,
	NR_EXECVE = 59,
	NR_SECCOMP = 317,
	NR_EXECVEAT = 322,
	NR_CLONE3 = 435,
	CLONE_VM = 0x100,
	CLONE_THREAD = 0x10000,
	CLONE_VFORK = 0x4000,
	PROT_EXEC_ = 4,
	DEPTH = 4,
	CLONES = 64,
};

u8 agent_sys_wanted[3][SHIM_MAX_SYSCALLS + 1];

/* By number: its entry is for records, and nothing else has to be done. */
static u8 record_only[SHIM_MAX_SYSCALLS];

/* What a thread is in the middle of. By shim_thread.index; not wiped in a fork child. */
struct notes {
	u32 tid;
	u32 n;
	u32 vfork; /* counted in agent_vforks */
	u32 pad;
	struct note {
		u64 ip, sp;
		u32 nr;
		u32 by; /* who has skipped the call (agent_func_enter); 0: it is made */
	} open[DEPTH];
};

struct notes *agent_sys_notes; /* [AGENT_THREADS], there before the first window */

AT(notes, tid, 0);
AT(notes, n, 4);
_Static_assert(sizeof(struct notes) == NOTES_SIZE, "lean.inc");

/* Calls that made a thread or process, by the address behind them. */
static struct {
	u64 ip;
	u32 nr;
} clones[CLONES];

/* tracepoints' record: struct trace_entry, then what the format says */
struct record {
	u16 type;
	u8 flags, preempt_count;
	s32 pid;
	s64 nr;
	u64 args[6];
};

long agent_sys_init(void)
{
	if (!agent_sys_notes)
		agent_store(&agent_sys_notes,
			    (struct notes *)agent_map_anon(AGENT_THREADS * sizeof(struct notes)));
	return agent_sys_notes ? 0 : -E_NOMEM;
}

void agent_sys_end(void)
{
	agent_sys_lean_end();
	agent_sys_notes = NULL;
}

static u32 is_clone(u32 nr)
{
	return nr == NR_CLONE || nr == NR_CLONE3 || nr == NR_FORK || nr == NR_VFORK;
}

static struct notes *notes_of(struct shim_thread *t, int child)
{
	struct notes *n = &agent_sys_notes[t->index % AGENT_THREADS];

	if (n->tid != t->tid) {
		if (!child)
			n->n = 0;
		n->vfork = 0;
		n->tid = t->tid;
	}
	return n;
}

static void note(struct notes *n, u64 ip, u64 sp, u32 nr, u32 by)
{
	u32 at = n->n < DEPTH ? n->n : DEPTH;

	if (at && n->open[at - 1].ip == ip && n->open[at - 1].sp == sp)
		at--; /* made again: the first one was abandoned */
	if (at == DEPTH) { /* the outermost one is given up */
		for (u32 i = 1; i < DEPTH; i++)
			n->open[i - 1] = n->open[i];
		at--;
	}
	n->open[at].ip = ip;
	n->open[at].sp = sp;
	n->open[at].nr = nr;
	n->open[at].by = by;
	n->n = at + 1;
}

/* The number of the call that ends here, and who has skipped it; -1: none that was noted. */
static long noted(struct notes *n, u64 ip, u64 sp, u32 *by)
{
	for (u32 at = n->n < DEPTH ? n->n : DEPTH; at-- > 0;)
		if (n->open[at].ip == ip && n->open[at].sp == sp) {
			n->n = at;
			*by = n->open[at].by;
			return n->open[at].nr;
		}
	return -1;
}

static void note_clone(u64 ip, u32 nr)
{
	u32 at = (u32)(ip >> 1) % CLONES;

	agent_store(&clones[at].ip, 0ull);
	clones[at].nr = nr;
	agent_store(&clones[at].ip, ip);
}

static long noted_clone(u64 ip)
{
	u32 at = (u32)(ip >> 1) % CLONES;

	return agent_load(&clones[at].ip) == ip ? (long)clones[at].nr : -1;
}

/* Does the child run in this memory, as another process? */
static int shares_memory(u32 nr, const struct shim_pt_regs *regs)
{
	u64 flags = nr == NR_CLONE ? regs->di : 0;

	if (nr == NR_VFORK)
		return 1;
	if (nr == NR_CLONE3 && shim_copy_from(&flags, regs->di, sizeof(flags)))
		return 0;
	return (flags & CLONE_VM) && !(flags & CLONE_THREAD);
}

static void begin_clone(struct notes *n, u32 nr, const struct shim_pt_regs *regs)
{
	note_clone(regs->ip, nr);
	if (shares_memory(nr, regs) && !n->vfork) {
		n->vfork = 1;
		__atomic_fetch_add(&agent_vforks, 1, __ATOMIC_RELAXED);
	}
}

/* In the parent, after the child has its own memory or is gone (CLONE_VFORK); a child that goes on
 * in this one keeps the count up. */
static void end_clone(struct notes *n, u32 nr, const struct shim_pt_regs *regs)
{
	u64 flags = nr == NR_VFORK ? CLONE_VFORK : regs->di;
	int failed = (s64)regs->ax < 0;

	if (!n->vfork || !regs->ax)
		return;
	n->vfork = 0;
	if (nr == NR_CLONE3 && !failed && shim_copy_from(&flags, regs->di, sizeof(flags)))
		return;
	if (failed || (flags & CLONE_VFORK))
		__atomic_fetch_sub(&agent_vforks, 1, __ATOMIC_RELAXED);
}

static void run_record(struct shim_thread *t, struct shim_site *site, struct record *r,
		       struct shim_pt_regs *regs)
{
	r->type = (u16)site->func;
	agent_run_event_of(t, site, r, regs);
}

static void fill_args(struct record *r, const struct shim_pt_regs *regs)
{
	r->args[0] = regs->di;
	r->args[1] = regs->si;
	r->args[2] = regs->dx;
	r->args[3] = regs->r10;
	r->args[4] = regs->r8;
	r->args[5] = regs->r9;
}

static void run_enter(struct shim_thread *t, u32 nr, struct shim_pt_regs *regs)
{
	struct shim_site *all, *one;
	struct record r;
	u64 raw[2];

	if (agent_event_wanted(SHIM_EVENT_RAW_ENTER)) {
		raw[0] = (u64)regs;
		raw[1] = (u64)(s64)(s32)nr;
		agent_run_event(SHIM_EVENT_RAW_ENTER, raw, regs);
	}
	all = agent_event_site(SHIM_EVENT_ALL_ENTER);
	one = nr < SHIM_MAX_SYSCALLS ? agent_event_site(SHIM_EVENT_SYS_ENTER + nr) : NULL;
	if (!all && !one)
		return;
	r.flags = r.preempt_count = 0;
	r.pid = (s32)t->tid;
	r.nr = (s32)nr;
	fill_args(&r, regs);
	if (unlikely(all))
		run_record(t, all, &r, regs);
	if (likely(one))
		run_record(t, one, &r, regs);
}

/* by: who has skipped the call, 0: it was made. */
static void run_exit(struct shim_thread *t, u32 nr, struct shim_pt_regs *regs, u32 by)
{
	struct shim_site *all, *one;
	struct record r;
	u64 raw[2];

	/* the function that makes a child returns in the parent alone */
	if (agent_func_wanted(nr) && (by || regs->ax || !is_clone(nr)))
		agent_func_return(nr, regs, by);

	if (agent_event_wanted(SHIM_EVENT_RAW_EXIT)) {
		raw[0] = (u64)regs;
		raw[1] = regs->ax;
		agent_run_event(SHIM_EVENT_RAW_EXIT, raw, regs);
	}
	all = agent_event_site(SHIM_EVENT_ALL_EXIT);
	one = nr < SHIM_MAX_SYSCALLS ? agent_event_site(SHIM_EVENT_SYS_EXIT + nr) : NULL;
	r.flags = r.preempt_count = 0;
	r.pid = (s32)t->tid;
	r.nr = (s32)nr;
	r.args[0] = regs->ax;
	if (unlikely(all))
		run_record(t, all, &r, regs);
	if (one)
		run_record(t, one, &r, regs);
}

u64 agent_sys_enter(struct shim_pt_regs *regs, const struct shim_call_site *site)
{
	struct shim_thread *t = agent_thread_here();
	u32 nr = (u32)regs->orig_ax;
	struct notes *n;
	u32 by = 0;

	if (!t)
		return agent_trap_enter(t, nr, regs);
	regs->orig_ax = (u64)(s64)(s32)nr; /* what the kernel takes of it */
	n = notes_of(t, 0);
	if (site->nr < 0 || site->flags & SHIM_CALL_SHARED)
		note(n, regs->ip, regs->sp, nr, 0);
	else if (n->n)
		noted(n, regs->ip, regs->sp, &by); /* one that was skipped and left by a longjmp */
	run_enter(t, nr, regs);
	if (likely(nr < SHIM_MAX_SYSCALLS && agent_load(&record_only[nr])))
		return 0;
	if (agent_func_wanted(nr)) {
		by = agent_func_enter(nr, regs);
		if (by) {
			note(n, regs->ip, regs->sp, nr, by);
			return 1;
		}
	}
	if (is_clone(nr))
		begin_clone(n, nr, regs);
	agent_proc_enter(t, nr, regs);
	if (nr == NR_EXECVE || nr == NR_EXECVEAT) {
		agent_exec_begins(t, nr);
		agent_exec_seen(nr, regs);
	}
	if (nr == NR_PRCTL || nr == NR_SECCOMP)
		agent_filter_ahead(nr, regs->di, regs->si, regs->dx);
	return agent_trap_enter(t, nr, regs);
}

/* One thread at a time tells of what it has made executable; a holder that a fork child has inherited
 * is none. */
static int begin_telling(u32 *telling, const struct shim_thread *t)
{
	enum { PATIENCE = 20000 };
	u32 tid = agent_own_tid(t);

	for (u32 i = 0; i < PATIENCE; i++) {
		u32 holder = agent_load(telling);

		if (holder && i % 64 == 0 &&
		    shim_sys3(NR_TGKILL, agent_own_tgid(t), holder, 0) != -E_SRCH)
			holder = 0;
		if ((!holder || i % 64 == 0) &&
		    __atomic_compare_exchange_n(telling, &holder, tid, 0, __ATOMIC_ACQUIRE,
						__ATOMIC_RELAXED))
			return 1;
		agent_pause(i);
	}
	return 0;
}

/* What becomes executable may hold calls: the backends are told before anybody can run it. */
static void made_executable(struct shim_thread *t, u32 nr, const struct shim_pt_regs *regs, u64 result)
{
	static u32 telling;
	u64 at = nr == NR_MMAP ? result : regs->di;

	if ((s64)result < 0 && (s64)result > -4096)
		return;
	if (t->fs_base & 1 || agent_load(&t->guard_sp) || !agent_sys_attached())
		return; /* a child of vfork; a handler inside a run */
	if (!begin_telling(&telling, t))
		return;
	agent_mapped_lo = at;
	agent_mapped_hi = at + ((regs->si + AGENT_PAGE - 1) & ~(AGENT_PAGE - 1ull));
	agent_visit(SHIM_SYNC_MAP);
	agent_mapped_lo = agent_mapped_hi = 0;
	agent_store(&telling, 0u);
}

/* The number of the call that has ended here, and who has skipped it; -1: it is not known, or none
 * has. */
static long number(struct notes *n, const struct shim_pt_regs *regs, const struct shim_call_site *site,
		   u32 *by)
{
	long nr = n->n ? noted(n, regs->ip, regs->sp, by) : -1;

	if (site->nr >= 0 && !(site->flags & SHIM_CALL_SHARED))
		nr = site->nr;
	if (nr < 0 && site->flags >> SHIM_CALL_KEPT) { /* it waited before there were notes */
		u64 kept = *(const u64 *)(regs->sp + 8ull * ((site->flags >> SHIM_CALL_KEPT) - 1));

		nr = kept < SHIM_MAX_SYSCALLS ? (long)kept : -1;
	}
	return nr < 0 && !regs->ax ? noted_clone(regs->ip) : nr;
}

void agent_sys_exit(struct shim_pt_regs *regs, const struct shim_call_site *site)
{
	struct shim_thread *t = agent_thread_here();
	struct notes *n;
	u64 result = regs->ax;
	u32 by = 0;
	long nr;

	if (!t)
		return;
	if (site->flags & SHIM_CALL_SHARED)
		regs->sp += 8; /* rcx lies there too */
	n = notes_of(t, !regs->ax);
	nr = number(n, regs, site, &by);
	if (nr < 0)
		return;
	regs->orig_ax = (u64)nr;
	if (by) {
		run_exit(t, (u32)nr, regs, by);
		return;
	}
	if (is_clone((u32)nr))
		end_clone(n, (u32)nr, regs);
	if (nr == NR_EXECVE || nr == NR_EXECVEAT)
		agent_exec_failed(t);
	agent_trap_exit(t, (u32)nr, regs);
	agent_proc_exit(t, (u32)nr, regs);
	run_exit(t, (u32)nr, regs, 0);
	if ((nr == NR_MMAP || nr == NR_MPROTECT) && regs->dx & PROT_EXEC_)
		made_executable(t, (u32)nr, regs, result);
}

void agent_sys_tell_exit(struct shim_thread *t, u32 nr, u64 result)
{
	struct shim_pt_regs regs;

	agent_zero(&regs, sizeof(regs));
	regs.orig_ax = nr;
	regs.ax = result;
	regs.sp = (u64)__builtin_frame_address(0);
	run_exit(t, nr, &regs, 0);
}

int agent_sys_exit_wanted(u32 nr)
{
	return agent_event_wanted(SHIM_EVENT_RAW_EXIT) || agent_event_wanted(SHIM_EVENT_ALL_EXIT) ||
	       agent_event_wanted(SHIM_EVENT_SYS_EXIT + nr) || agent_func_wanted(nr);
}

int agent_sys_attached(void)
{
	for (u32 event = 0; event <= SHIM_LAST_OF_CALLS; event++)
		if (event != SHIM_EVENT_SCHED_EXEC && agent_event_wanted(event))
			return 1;
	for (u32 nr = 0; nr < SHIM_MAX_SYSCALLS; nr++)
		if (agent_func_wanted(nr))
			return 1;
	return agent_trap_used();
}

static int more_than_record(u32 nr)
{
	return agent_func_wanted(nr) || agent_proc_wants(nr) || agent_trap_wants(nr) || is_clone(nr) ||
	       nr == NR_EXECVE || nr == NR_EXECVEAT || nr == NR_PRCTL || nr == NR_SECCOMP;
}

/* By which hook: bits of 1 << AGENT_SYS_ENTER and _EXIT. A call whose number only its entry knows is
 * told of by both. */
static u32 hooks_of(u32 nr, u32 of_all)
{
	enum { ENTER = 1 << AGENT_SYS_ENTER, EXIT = 1 << AGENT_SYS_EXIT };
	u32 hooks = of_all;

	if (agent_muted())
		return agent_trap_wants(nr) ? ENTER | EXIT : 0;
	if (agent_event_wanted(SHIM_EVENT_SYS_ENTER + nr))
		hooks |= ENTER;
	if (agent_event_wanted(SHIM_EVENT_SYS_EXIT + nr) || nr == NR_MMAP || nr == NR_MPROTECT)
		hooks |= EXIT;
	if (more_than_record(nr))
		hooks |= ENTER | EXIT;
	return hooks;
}

/* What of it is not the entry's alone. */
static u32 more_at_exit(u32 nr)
{
	return nr == NR_MMAP || nr == NR_MPROTECT || agent_trap_may_want(nr);
}

/* 0, 1, or AGENT_SYS_BY_LEAN */
static u8 wanted(u32 hooks, u32 hook, u32 lean)
{
	return (u8)(hooks >> hook & 1 ? 1 + lean : 0);
}

void agent_sys_changed(void)
{
	u32 all = 0, some, alone, enter, exit;

	if (agent_event_wanted(SHIM_EVENT_RAW_ENTER) || agent_event_wanted(SHIM_EVENT_ALL_ENTER))
		all |= 1 << AGENT_SYS_ENTER;
	if (agent_event_wanted(SHIM_EVENT_RAW_EXIT) || agent_event_wanted(SHIM_EVENT_ALL_EXIT))
		all |= 1 << AGENT_SYS_EXIT;
	some = all;
	for (u32 nr = 0; nr < SHIM_MAX_SYSCALLS; nr++) {
		u32 hooks = hooks_of(nr, all);

		alone = !agent_muted() && !more_than_record(nr);
		enter = agent_sys_by_lean(0, nr, alone && !(all >> AGENT_SYS_ENTER & 1));
		exit = agent_sys_by_lean(1, nr,
					 alone && !(all >> AGENT_SYS_EXIT & 1) && !more_at_exit(nr));
		agent_store(&record_only[nr], (u8)!more_than_record(nr));
		some |= agent_event_wanted(SHIM_EVENT_SYS_ENTER + nr) ||
			agent_event_wanted(SHIM_EVENT_SYS_EXIT + nr) || agent_func_wanted(nr) ||
			agent_proc_wants(nr) || agent_trap_wants(nr);
		agent_store(&agent_sys_wanted[AGENT_SYS_ANY][nr], (u8)(hooks != 0));
		agent_store(&agent_sys_wanted[AGENT_SYS_ENTER][nr],
			    wanted(hooks, AGENT_SYS_ENTER, enter));
		agent_store(&agent_sys_wanted[AGENT_SYS_EXIT][nr], wanted(hooks, AGENT_SYS_EXIT, exit));
	}
	for (u32 hook = 0; hook < 3; hook++)
		agent_store(&agent_sys_wanted[hook][SHIM_MAX_SYSCALLS], (u8)(some != 0));
}
