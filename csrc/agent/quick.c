/*
 * Reads of any memory without a system call each: a copy whose fault is a signal, which leads to the copy's end.
 *
 * A fault kills where the signal is blocked, or its handler is another, so both have to be certain.
 * - *The handler* is there only in a process that has none for SIGSEGV and SIGBUS (SIG_DFL), and as long as
 *   each call of the C library that could look at that or change it is met: sites at its rt_sigaction(2) and at
 *   syscall(), with links of SHIM_QUICK_LINK; no other module makes system calls (libbpf_shim/attach/quick.py).
 *   Whoever asks for one of the two signals finds the process as if there had been nothing: it is given back
 *   first, for good. So no handler of the application's is ever in front or behind.
 * - *The mask* is asked for by a run, the first time it reads: one system call that takes a fifth of a copy's. What
 *   it says holds for the thread's later runs until it may have changed: sites at each call that does that, for
 *   itself or for the time that it waits, and at the return from a handler, which may have learnt of another one.
 *   A handler that begins changes it by its own mask, so none may have one of the two signals there. Where one has,
 *   where such sites are not to be had (links of SHIM_MASKS_LINK: all of them or none), and beside signal
 *   handlers of ours that programs run in, each run asks.
 *   A run inside another one, that of a signal handler, copies the other way.
 * - *The stack* must have room for a signal's frame, since the handler runs on it: the thread's own, known (stays.c).
 * - A child of vfork has a table of handlers and a mask of its own, in its parent's memory. One that changes the
 *   table leaves a mark there, which the parent's next run takes away. Another process in this memory is not quick.
 *
 * A signal that is the application's own ends it, as without us: the handler takes itself away; the fault happens
 * again, or what was sent is sent again.
 */
#include "hit.h"
#include "stays.h"
#include "trapcalls.h"

enum {
	LEAST = 1 << 16, /* below, nothing is: a fault would cost more than to ask */
	IDLE = 0,
	READY = 1, /* the handlers are there, and who was on his way to change that will have done it soon */
	ON = 2,
	NEVER = 3,
	READY_NS = 20000000,
	PATIENCE = 20000, /* pauses */
	PLACES = 128,
	ASKED = 4, /* runs that ask for the mask, until the answer is believed in */
};
/* What a place is for, the lowest byte of its link's cookie. */
enum {
	SIGACTION = 1, /* arguments: signal, action */
	CALL = 2, /* syscall(): number, signal, action */
	MASK = 3, /* a mask changes, or may do so */
};

static struct {
	u32 state, asked;
	u32 lock;
	u32 tries;
	u32 ours; /* signals whose handler we have put */
	u64 since;
	u32 verified; /* shim_agent.masks, as of when the handlers were looked at last */
	u32 unseen; /* no mask is known any more */
	u32 come, looks; /* links have come since masks' places were looked for, so many times */
} quick;

static void on_fault(int signo, struct agent_siginfo *info, struct agent_context *uc);

static const u32 both[] = { SIGBUS_, SIGSEGV_ };
static struct trap_action theirs[2]; /* what ours has taken the place of */

/* 1: there is none; 2: ours; 0: another, or it cannot be told. */
static int handler(u32 signo)
{
	struct trap_action there = { 0, 0, 0, 0 };

	if (shim_sys4(NR_SIGACTION, signo, 0, &there, 8))
		return 0;
	return there.handler == (u64)on_fault ? 2 : !there.handler;
}

/* As it was, flags and all. */
static void put_back(u32 i)
{
	shim_sys4(NR_SIGACTION, both[i], &theirs[i], 0, 8);
}

static int lock(void)
{
	u32 none = 0;

	return __atomic_compare_exchange_n(&quick.lock, &none, 1, 0, __ATOMIC_ACQUIRE,
					   __ATOMIC_RELAXED);
}

int agent_quick_hold(void)
{
	if (!lock())
		return 0;
	if (!agent_load(&quick.ours))
		return 1;
	agent_quick_release();
	return 0;
}

void agent_quick_release(void)
{
	agent_store(&quick.lock, 0u);
}

/* Ours go, under the lock. -EBUSY: another has come in the place of one, and may lead to ours. */
static long give_back(void)
{
	long ret = 0;
	int there;

	for (u32 i = 0; i < 2; i++) {
		if (!(quick.ours >> i & 1))
			continue;
		there = handler(both[i]);
		if (there == 2)
			put_back(i);
		if (there)
			quick.ours &= ~(1u << i);
		else
			ret = -E_BUSY;
	}
	return ret;
}

static long withdraw(u32 state)
{
	u32 before = __atomic_exchange_n(&quick.state, state, __ATOMIC_SEQ_CST), held = 0;
	long ret;

	if (before == ON || before == READY)
		agent_settle(); /* nobody copies with the handler's help any more */
	for (u32 i = 0; i < PATIENCE && !held; i++) {
		held = (u32)lock();
		if (!held)
			agent_pause(i);
	}
	ret = give_back();
	if (held)
		agent_store(&quick.lock, 0u);
	return ret;
}

long agent_quick_end(void)
{
	agent_store(&quick.asked, 0u);
	return withdraw(agent_load(&quick.state) == NEVER ? NEVER : IDLE);
}

static int ours(const struct shim_site_link *link)
{
	return (link->link_id & SHIM_QUICK_LINKS) != 0;
}

static u64 quick_link(const struct shim_site *site)
{
	for (u32 at = agent_load(&site->first), n = 0; at && n < SHIM_MAX_SITE_LINKS; n++) {
		const struct shim_site_link *link = &agent_links()[(at - 1) % SHIM_MAX_SITE_LINKS];

		if (agent_load(&link->live) && ours(link))
			return link->cookie;
		at = agent_load(&link->next);
	}
	return 0;
}

/* What is met, by its number: the sites' records; where handlers are asked for, and where masks change. */
static struct places {
	u32 nr, at[PLACES];
} handlers, masks;

static int of_masks(u64 cookie)
{
	return (cookie & 0xff) == MASK;
}

static int watched(const struct places *p)
{
	u32 nr = agent_load(&p->nr);

	for (u32 i = 0; i < nr; i++) {
		const struct shim_site *site = &agent_sites()[agent_load(&p->at[i]) % SHIM_MAX_SITES];
		u64 cookie = agent_load(&site->patched) ? quick_link(site) : 0;

		if (!cookie || (cookie >> 8 & 0xffff) != (i | nr << 8) ||
		    of_masks(cookie) != (p == &masks))
			return 0;
	}
	return nr != 0;
}

static int find(struct places *p)
{
	u32 seen = 0, all = 0;

	agent_store(&p->nr, 0u);
	for (u32 i = 0; i < shim_agent_root.nr_sites; i++) {
		u64 cookie = agent_sites()[i].addr ? quick_link(&agent_sites()[i]) : 0;
		u32 nr = (u32)(cookie >> 16 & 0xff), number = (u32)(cookie >> 8 & 0xff);

		if (!cookie || nr > PLACES || number >= nr || of_masks(cookie) != (p == &masks))
			continue;
		agent_store(&p->at[number], i);
		all = nr;
		seen++;
	}
	if (seen >= all)
		agent_store(&p->nr, all);
	return watched(p);
}

/* What threads know of their masks is over. */
static void forget_all(void)
{
	if (!__atomic_add_fetch(&shim_agent_root.masks, 1, __ATOMIC_SEQ_CST))
		__atomic_fetch_add(&shim_agent_root.masks, 1, __ATOMIC_SEQ_CST);
}

void agent_quick_going(void)
{
	agent_store(&masks.nr, 0u);
	forget_all();
}

void agent_quick_unseen(void)
{
	agent_store(&quick.unseen, 1u);
	forget_all();
}

long agent_quick_look(void)
{
	agent_quick_going();
	agent_store(&quick.looks, 0u);
	agent_store(&quick.come, 1u); /* other sessions' may be left */
	return agent_load(&quick.asked) && !find(&handlers) ? agent_quick_end() : 0;
}

void agent_quick_asked(void)
{
	agent_store(&quick.asked, 1u);
	agent_store(&quick.looks, 0u);
	agent_store(&quick.come, 1u);
}

void agent_quick_forked(void)
{
	agent_store(&quick.lock, 0u); /* its holder, if any, is a thread of the parent */
}

/* Called by the kernel. The signal ends the process, as it would have: what was sent comes when it is not blocked
 * any more, behind the handler. */
static void on_fault(int signo, struct agent_siginfo *info, struct agent_context *uc)
{
	int sent = agent_sent(signo, info);

	if (!sent && uc->ip - (u64)agent_guarded < (u64)(agent_guarded_end - agent_guarded)) {
		uc->ip = (u64)agent_guarded_fault;
		return;
	}
	agent_store(&quick.state, (u32)NEVER);
	put_back(signo == SIGSEGV_);
	if (sent || agent_by_call(uc->ip))
		shim_sys4(NR_RT_TGSIGQUEUEINFO, shim_sys0(NR_GETPID), shim_sys0(NR_GETTID), signo,
			  info);
}

/* Nobody else does the same. What has come to be NEVER meanwhile stays so. */
static void install(void)
{
	struct trap_action mine = { (u64)on_fault, AGENT_FAULT_FLAGS, (u64)agent_tick_restorer, 0 };
	u32 idle = IDLE;

	for (u32 i = 0; i < 2; i++) {
		if (handler(both[i]) != 1 || shim_sys4(NR_SIGACTION, both[i], 0, &theirs[i], 8))
			break;
		quick.ours |= 1u << i;
		if (theirs[i].handler || shim_sys4(NR_SIGACTION, both[i], &mine, &theirs[i], 8) ||
		    theirs[i].handler) {
			put_back(i);
			quick.ours &= ~(1u << i);
			break;
		}
	}
	quick.since = shim_now_ns();
	if (quick.ours != 3 || !__atomic_compare_exchange_n(&quick.state, &idle, READY, 0,
							    __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {
		agent_store(&quick.state, (u32)NEVER);
		give_back();
	}
}

/* Does a handler block one of the two, by its own mask? */
static int masked(void)
{
	struct trap_action there;

	for (u32 signo = 1; signo <= 64; signo++)
		if (!shim_sys4(NR_SIGACTION, signo, 0, &there, 8) && there.handler > 1 &&
		    there.mask & AGENT_FAULTS)
			return 1;
	return 0;
}

/* Are all changes of masks met? Those of places that have come are looked for now and then. */
static int masks_seen(void)
{
	if (agent_load(&quick.unseen))
		return 0;
	if (agent_load(&quick.come)) {
		u32 looks = ++quick.looks;

		if (!(looks & (looks - 1)) && lock()) {
			if (find(&masks))
				agent_store(&quick.come, 0u);
			agent_store(&quick.lock, 0u);
		}
	}
	return watched(&masks);
}

/* One step further, now and then. */
static void advance(u32 state)
{
	u32 tries = ++quick.tries;

	if (state == IDLE && tries & (tries - 1))
		return;
	if (state == READY && shim_now_ns() - quick.since < READY_NS)
		return;
	if (!lock())
		return;
	if (agent_load(&quick.state) == state && state == IDLE && find(&handlers))
		install();
	else if (agent_load(&quick.state) == state && state == READY) {
		u32 ready = READY, to = handler(SIGBUS_) == 2 && handler(SIGSEGV_) == 2 ? ON : NEVER;

		if (masked())
			agent_quick_unseen();
		forget_all();
		agent_store(&quick.verified, agent_load(&shim_agent_root.masks));
		__atomic_compare_exchange_n(&quick.state, &ready, to, 0, __ATOMIC_SEQ_CST,
					    __ATOMIC_RELAXED);
	}
	agent_store(&quick.lock, 0u);
}

static int itself(const struct shim_thread *t)
{
	return (u32)shim_sys0(NR_GETTID) == agent_own_tid(t);
}

/* Would a fault of this run lead back to it? What is found is good for later runs, if all changes are met. The
 * first few runs behind one may be of probes between its place and its call. */
static u8 certain(const struct shim_thread *t, struct agent_stack *s)
{
	u32 number = __atomic_load_n(&shim_agent_root.masks, __ATOMIC_SEQ_CST), on = ON;
	u64 mask = ~0ull;

	if (agent_own_tgid(t) != agent_load(&agent_threads()[0].tid))
		return 0;
	if (unlikely(s->child)) {
		if (!itself(t))
			return 0;
		s->child = 0;
	}
	if (agent_load(&quick.verified) != number) { /* places were gone for a time */
		quick.since = shim_now_ns();
		__atomic_compare_exchange_n(&quick.state, &on, READY, 0, __ATOMIC_SEQ_CST,
					    __ATOMIC_RELAXED);
		return 0;
	}
	if (!watched(&handlers) || shim_sys4(NR_SIGPROCMASK, 0, 0, &mask, 8) || mask & AGENT_FAULTS)
		return 0;
	if (masks_seen() && ++s->asked >= ASKED) {
		s->asked = 0;
		if (itself(t))
			agent_store(&s->open, number);
	}
	return 1;
}

static int may(void)
{
	u32 state = agent_load(&quick.state);
	const struct shim_thread *t;
	struct agent_stack *s;

	if (likely(state == NEVER || !agent_load(&quick.asked)))
		return 0;
	t = agent_usual();
	if (!t || !t->guard_sp || t->outer_sp)
		return 0;
	if (unlikely(state != ON)) {
		advance(state);
		return 0;
	}
	s = agent_room(t, AGENT_FAULT_ROOM);
	if (!s)
		return 0;
	if (likely(s->open == agent_load(&shim_agent_root.masks)))
		return 1;
	if (s->run != t->runs) {
		s->may = certain(t, s);
		s->run = t->runs;
	}
	return s->may;
}

const struct shim_quick agent_quick = { LEAST, may, agent_guarded_copy, agent_guarded_string };

/* The application is about to look at one of the signals, or to change it. */
static void concerned(void)
{
	u32 known;

	if (agent_muted() || !agent_load(&quick.ours))
		return;
	agent_check_fork(0);
	known = agent_load(&agent_threads()[0].tid);
	if (!known || known == (u32)shim_sys0(NR_GETPID)) {
		withdraw(NEVER);
		return;
	}
	agent_stays_child();
	for (u32 i = 0; i < 2; i++)
		if (handler(both[i]) == 2)
			put_back(i);
}

/* An action that the application is about to set: its handler's mask. At 24 in the kernel's, at 8 in the C library's. */
static void action(u64 at, u32 mask_at)
{
	u64 handler = 0, mask = 0;

	if (!at || agent_load(&quick.unseen))
		return;
	if (shim_copy_from(&handler, at, 8) || shim_copy_from(&mask, at + mask_at, 8) ||
	    (handler > 1 && mask & AGENT_FAULTS))
		agent_quick_unseen();
}

/* A call is about to be made by which handlers or masks may change. */
static void met(const struct shim_pt_regs *regs, u32 kind)
{
	u32 signo = 0;

	if (kind == SIGACTION) {
		signo = (u32)regs->di;
		action(regs->si, 8);
	} else if (kind == CALL && (u32)regs->di == NR_SIGACTION) {
		signo = (u32)regs->si;
		action(regs->dx, 24);
	}
	if (signo != SIGBUS_ && signo != SIGSEGV_)
		return;
	if (agent_load(&quick.state) == IDLE)
		agent_store(&quick.state, (u32)NEVER);
	concerned();
}

static int alone(const struct shim_site *site)
{
	u32 at = agent_load(&site->first);
	const struct shim_site_link *link = &agent_links()[(at - 1) % SHIM_MAX_SITE_LINKS];

	return at && ours(link) && !agent_load(&link->next);
}

u64 agent_quick_enter(struct shim_pt_regs *regs, struct shim_site *site)
{
	u64 kind = agent_load(&quick.asked) ? quick_link(site) & 0xff : 0, to = 0;

	if (kind)
		met(regs, (u32)kind);
	if (!alone(site))
		to = agent_hit(regs, site, 0);
	/* behind the programs, which may have learnt it; whatever the link is by now */
	agent_stays_forget();
	return to;
}
