/*
 * While there are sites of int3 nobody blocks SIGTRAP and nobody takes its handler away: calls that
 * would are made here, without it, and what they tell of it is what they would have told.
 *
 * Calls that wait with another mask are left where they are, since a thread may stand in one for days:
 * the signal is taken out of the mask where it lies, and put back behind the call. Where that is memory
 * that cannot be written, the call is made here too.
 */
#include "trapcalls.h"

enum {
	NR_RT_SIGSUSPEND = 130,
	NR_PSELECT6 = 270,
	NR_PPOLL = 271,
	NR_EPOLL_PWAIT = 281,
	NR_IO_PGETEVENTS = 333,
	NR_IO_URING_ENTER = 426,
	NR_EPOLL_PWAIT2 = 441,
	URING_EXT_ARG = 8,
	AWAY = 256,
	SIGNALS = 64,
};

struct trap_action agent_trap_theirs;
static u64 masked; /* handlers that would have it blocked, by signal */
static u32 blocked[AGENT_THREADS]; /* number of the thread that thinks it has */

/* Masks that have lost it, by thread. What is forgotten stays without. */
static struct away {
	u64 at, sp;
	u32 tid, pad;
} away[AWAY];

void trap_unmask_handlers(void)
{
	struct trap_action act;

	for (u32 sig = 1; sig <= SIGNALS; sig++) {
		if (sig == SIGTRAP_ || shim_sys4(NR_SIGACTION, sig, 0, &act, 8) || act.handler <= 1 ||
		    !(act.mask & TRAP_BIT))
			continue;
		act.mask &= ~TRAP_BIT;
		if (!shim_sys4(NR_SIGACTION, sig, &act, 0, 8))
			masked |= 1ull << (sig - 1);
	}
}

int agent_trap_may_want(u32 nr)
{
	return nr == NR_SIGACTION || nr == NR_SIGPROCMASK || nr == NR_RT_SIGSUSPEND ||
	       nr == NR_PSELECT6 || nr == NR_PPOLL || nr == NR_EPOLL_PWAIT || nr == NR_IO_PGETEVENTS ||
	       nr == NR_IO_URING_ENTER || nr == NR_EPOLL_PWAIT2;
}

int agent_trap_wants(u32 nr)
{
	return agent_trap_may_want(nr) && agent_trap_used();
}

static u64 made(struct shim_pt_regs *regs, long result)
{
	regs->ax = (u64)result;
	return 1;
}

/* rt_sigaction(2) of SIGTRAP itself: remembered, and told. */
static long own_action(const struct shim_thread *t, const struct shim_pt_regs *regs)
{
	struct trap_action act, old = agent_trap_theirs;

	if (regs->si && shim_copy_from(&act, regs->si, sizeof(act)))
		return -E_FAULT;
	/* a child of vfork says what is to be in its own image */
	if (regs->si && !(t && t->fs_base & 1))
		agent_trap_theirs = act;
	return regs->dx && shim_copy_to(regs->dx, &old, sizeof(old)) ? -E_FAULT : 0;
}

static u64 action(const struct shim_thread *t, struct shim_pt_regs *regs)
{
	u64 sig = (u32)regs->di, bit = sig && sig <= SIGNALS ? 1ull << (sig - 1) : 0;
	struct trap_action act = { 0, 0, 0, 0 }, old;
	long ret;

	if (regs->r10 != 8 || !bit)
		return 0;
	if (sig == SIGTRAP_)
		return made(regs, own_action(t, regs));
	if (regs->si && shim_copy_from(&act, regs->si, sizeof(act)))
		return 0; /* the kernel says so */
	if (!(act.mask & TRAP_BIT) && !(masked & bit))
		return 0;
	int wanted = (act.mask & TRAP_BIT) != 0;

	act.mask &= ~TRAP_BIT;
	ret = shim_sys4(NR_SIGACTION, sig, regs->si ? &act : 0, &old, 8);
	if (ret)
		return made(regs, ret);
	if (masked & bit)
		old.mask |= TRAP_BIT;
	if (regs->si && !(t && t->fs_base & 1))
		masked = wanted ? masked | bit : masked & ~bit;
	if (regs->dx && shim_copy_to(regs->dx, &old, sizeof(old)))
		ret = -E_FAULT;
	return made(regs, ret);
}

/* rt_sigprocmask(2). Where the signal has no part in it the kernel makes it, at its own place: what
 * becomes deliverable is delivered there. */
static u64 procmask(const struct shim_thread *t, struct shim_pt_regs *regs)
{
	u32 *mark = t ? &blocked[t->index % AGENT_THREADS] : NULL, how = (u32)regs->di;
	int was = mark && *mark == t->tid, has;
	u64 set = 0, old;
	long ret;

	if (regs->r10 != 8 || how > SIG_SETMASK_)
		return 0;
	if (regs->si && shim_copy_from(&set, regs->si, 8))
		return 0;
	has = (set & TRAP_BIT) != 0;
	if (mark && regs->si && (has || how == SIG_SETMASK_))
		*mark = has && how != SIG_UNBLOCK_ ? t->tid : 0;
	if (!(has && how != SIG_UNBLOCK_) && !(was && regs->dx))
		return 0;
	set &= ~TRAP_BIT;
	ret = shim_sys4(NR_SIGPROCMASK, how, regs->si ? &set : 0, &old, 8);
	if (!ret && was)
		old |= TRAP_BIT;
	if (!ret && regs->dx && shim_copy_to(regs->dx, &old, 8))
		ret = -E_FAULT;
	return made(regs, ret);
}

/* Where the mask of a call that waits lies; 0: it has none. */
static u64 mask_of(u32 nr, const struct shim_pt_regs *regs)
{
	u64 pair[2] = { 0, 0 };

	switch (nr) {
	case NR_RT_SIGSUSPEND: return regs->si == 8 ? regs->di : 0;
	case NR_PPOLL: return regs->r8 == 8 ? regs->r10 : 0;
	case NR_EPOLL_PWAIT:
	case NR_EPOLL_PWAIT2: return regs->r9 == 8 ? regs->r8 : 0;
	case NR_IO_URING_ENTER:
		if (!(regs->r10 & URING_EXT_ARG))
			return regs->r9 == 8 ? regs->r8 : 0;
		return shim_copy_from(pair, regs->r8, 8) ? 0 : pair[0];
	default: /* a pointer to mask and size */
		if (!regs->r9 || shim_copy_from(pair, regs->r9, sizeof(pair)))
			return 0;
		return pair[1] == 8 ? pair[0] : 0;
	}
}

/* The call with another mask, from here. */
static long wait_here(u32 nr, const struct shim_pt_regs *regs, u64 set)
{
	u64 pair[3] = { (u64)&set, 8, 0 };
	long a = (long)regs->di, b = (long)regs->si, c = (long)regs->dx, d = (long)regs->r10;
	long e = (long)regs->r8, f = (long)regs->r9;

	if (nr == NR_RT_SIGSUSPEND)
		a = (long)&set;
	else if (nr == NR_PPOLL)
		d = (long)&set;
	else if (nr == NR_PSELECT6 || nr == NR_IO_PGETEVENTS)
		f = (long)pair;
	else if (nr == NR_IO_URING_ENTER && regs->r10 & URING_EXT_ARG)
		e = shim_copy_from(pair, regs->r8, sizeof(pair)) ? e
								 : (pair[0] = (u64)&set, (long)pair);
	else
		e = (long)&set;
	return shim_sys6(nr, a, b, c, d, e, f);
}

static u64 waits(const struct shim_thread *t, u32 nr, struct shim_pt_regs *regs)
{
	struct away *a = &away[t ? t->tid % AWAY : 0];
	u64 at = mask_of(nr, regs), set;

	if (t && a->tid == t->tid)
		a->tid = 0;
	if (!at || shim_copy_from(&set, at, 8) || !(set & TRAP_BIT))
		return 0;
	set &= ~TRAP_BIT;
	if (shim_copy_to(at, &set, 8))
		return made(regs, wait_here(nr, regs, set));
	if (t) {
		a->at = at;
		a->sp = regs->sp;
		agent_store(&a->tid, t->tid);
	}
	return 0;
}

u64 agent_trap_enter(const struct shim_thread *t, u32 nr, struct shim_pt_regs *regs)
{
	if (!agent_trap_wants(nr))
		return 0;
	if (nr == NR_SIGACTION)
		return action(t, regs);
	return nr == NR_SIGPROCMASK ? procmask(t, regs) : waits(t, nr, regs);
}

void agent_trap_exit(const struct shim_thread *t, u32 nr, const struct shim_pt_regs *regs)
{
	struct away *a = &away[t->tid % AWAY];
	u64 set;

	if (a->tid != t->tid || a->sp != regs->sp || a->at != mask_of(nr, regs))
		return;
	agent_store(&a->tid, 0u);
	if (!shim_copy_from(&set, a->at, 8)) {
		set |= TRAP_BIT;
		shim_copy_to(a->at, &set, 8);
	}
}
