/*
 * The hit at a site: the links of programs at a function's entry are run here, from one loop; what
 * else a link may be, and a hit inside of another run, go through enter.c.
 */
#include "hit.h"
#include "both.h"

/* The virtual CPU of a run that needs one; 0: there is none to be had. */
static inline int take_vcpu(struct shim_thread *t, struct shim_ctl *ctl, struct shim_run *run,
			    const struct shim_site_link *link)
{
	run->vcpu = SHIM_NO_VCPU;
	if (!(link->flags & SHIM_PROG_VCPU))
		return 1;
	run->vcpu = shim_vcpu_claim(ctl, run->owner);
	if (unlikely(run->vcpu == SHIM_NO_VCPU))
		return 0;
	t->held = (link->session % SHIM_MAX_SESSIONS) << 16 | (run->vcpu + 1);
	return 1;
}

/* One program at the entry, or (func) the return, of a function. 0: it did not run. */
static inline __attribute__((always_inline)) int run(struct shim_thread *t, struct shim_pt_regs *regs,
						     const struct shim_site *site,
						     const struct shim_site_link *link, u32 kind)
{
	struct shim_session *session = (struct shim_session *)link->home;
	struct shim_ctl *ctl = (struct shim_ctl *)session->ctl;
	u32 owner = agent_load(&session->owner);
	struct shim_run run;

	if (unlikely(!owner))
		return 0;
	run.ctl = (u64)ctl;
	run.regs = (u64)regs;
	run.thread = (u64)t;
	run.cookie = link->cookie;
	run.func_ip = site->func;
	run.owner = owner | t->index;
	run.prog_id = link->prog_id;
	run.tail_calls = 0;
	run.perf = session->perf;
	run.perf_size = session->perf_size;
	run.scratch[0] = run.scratch[1] = run.scratch[2] = 0;
	run.code = 0;
	if (kind == SHIM_LINK_ENTRY && !(link->flags & SHIM_PROG_NO_STACKS))
		run.code = agent_original_code(site);
	run.packet = run.both = run.signal = 0;
	if (!take_vcpu(t, ctl, &run, link))
		return 0;
	agent_call_here(link->image, regs, &run);
	if (run.vcpu != SHIM_NO_VCPU) {
		shim_vcpu_release(ctl, run.vcpu, run.owner);
		t->held = 0;
	}
	if (unlikely(run.signal))
		shim_signal_flush(&run);
	return 1;
}

/* Links of the site; how many want the return. Those that count their time, and what is not plain,
 * by enter.c. */
static inline __attribute__((always_inline)) u32 run_links(struct shim_thread *t,
							   struct shim_pt_regs *regs,
							   struct shim_site *site, u32 kind,
							   struct agent_both *both)
{
	u32 others = 0;

	for (u32 at = agent_load(&site->first), n = 0; at && n < SHIM_MAX_SITE_LINKS; n++) {
		struct shim_site_link *link = &agent_links()[(at - 1) % SHIM_MAX_SITE_LINKS];
		struct shim_link_state *state = agent_wanted(link, t);

		at = agent_load(&link->next);
		if (unlikely(!state))
			continue;
		if (likely(link->kind == kind) && likely(!agent_counts_time(link))) {
			if (unlikely(!run(t, regs, site, link, kind)))
				__atomic_fetch_add(&state->missed, 1, __ATOMIC_RELAXED);
		} else {
			others += agent_run_link(t, regs, regs, site, link, state, kind, both);
		}
	}
	return others;
}

/* The return is wanted by so many links, of which `both` are of programs that ran at the entry. */
static __attribute__((noinline)) void push(struct shim_thread *t, u64 sp, struct shim_site *site,
					   const struct agent_both *both)
{
	long slot = agent_ret_push(t, sp, site);

	if (slot >= 0)
		agent_both_keep((u32)slot, both);
}

/* The thread is inside a run, or was when it left that by a jump. */
static __attribute__((noinline)) void inside(struct shim_thread *t, struct shim_pt_regs *regs,
					     struct shim_site *site, struct agent_both *both)
{
	struct agent_guard guard;

	/* by the application's stack: this may be one of ours (ownstack.S) */
	if (agent_guard_enter(t, regs->sp, &guard)) {
		agent_missed(site, 2);
		return;
	}
	if (agent_run_links(t, regs, site, SHIM_LINK_ENTRY, both))
		push(t, regs->sp, site, both);
	agent_guard_leave(t, &guard);
}

/*
 * SHIM_SYM_ENTER. On the application's stack, general registers only; signals may come at any
 * instruction. A record used again for another address is known by regs->ip.
 */
u64 agent_enter(struct shim_pt_regs *regs, struct shim_site *site)
{
	struct shim_thread *t;
	struct agent_both both;

	if (!agent_load(&site->first) || unlikely(regs->ip != site->addr))
		return 0;
	t = agent_thread_here();
	if (unlikely(!t)) /* more threads than blocks: nothing says that a control page is being read */
		return 0;
	both.n = 0;
	if (likely(agent_guard_outermost(t, regs->sp))) {
		if (run_links(t, regs, site, SHIM_LINK_ENTRY, &both))
			push(t, regs->sp, site, &both);
		agent_guard_over(t);
	} else {
		inside(t, regs, site, &both);
	}
	return 0;
}

enum { FRAME = sizeof(struct shim_pt_regs) };

/* Runs what needs no more registers than there are, in whatever state the guard is. Links that do,
 * or are of another kind, have come after the hit has begun: they are met by the next one. */
static __attribute__((noinline)) void lean_slowly(struct shim_thread *t, struct shim_pt_regs *regs,
						  struct shim_site *site)
{
	u64 sp = (u64)regs + FRAME;
	struct agent_both both;
	struct agent_guard guard;
	u32 rets = 0;

	if (agent_guard_enter(t, sp, &guard)) {
		agent_missed(site, 2);
		return;
	}
	for (u32 at = agent_load(&site->first), n = 0; at && n < SHIM_MAX_SITE_LINKS; n++) {
		struct shim_site_link *link = &agent_links()[(at - 1) % SHIM_MAX_SITE_LINKS];
		struct shim_link_state *state = agent_wanted(link, t);

		at = agent_load(&link->next);
		if (state && link->kind == SHIM_LINK_RET)
			rets++;
		else if (state && link->kind == SHIM_LINK_ENTRY && link->flags & SHIM_PROG_NO_CONTEXT)
			agent_run_link(t, regs, regs, site, link, state, SHIM_LINK_ENTRY, NULL);
	}
	both.n = 0;
	if (rets)
		push(t, sp, site, &both);
	agent_guard_leave(t, &guard);
}

/* A plain program at the entry, nobody counts its time. */
static inline int lean(const struct shim_site_link *link)
{
	return link->kind == SHIM_LINK_ENTRY && link->flags & SHIM_PROG_NO_CONTEXT &&
	       !agent_counts_time(link);
}

u64 agent_hit_lean(struct shim_pt_regs *regs, struct shim_site *site, u64 ip)
{
	u32 at = agent_load(&site->first), rets = 0;
	struct agent_both both;
	struct shim_thread *t;

	if (unlikely(!at) || unlikely(ip != site->addr))
		return 0;
	t = agent_thread_here();
	if (unlikely(!t))
		return 0;
	if (unlikely(!agent_guard_outermost(t, (u64)regs + FRAME))) {
		lean_slowly(t, regs, site);
		return 0;
	}
	at = agent_load(&site->first);
	for (u32 n = 0; at && n < SHIM_MAX_SITE_LINKS; n++) {
		struct shim_site_link *link = &agent_links()[(at - 1) % SHIM_MAX_SITE_LINKS];
		struct shim_link_state *state = agent_wanted(link, t);

		at = agent_load(&link->next);
		if (unlikely(!state))
			continue;
		if (likely(lean(link))) {
			if (unlikely(!run(t, regs, site, link, SHIM_LINK_RET)))
				__atomic_fetch_add(&state->missed, 1, __ATOMIC_RELAXED);
		} else if (link->kind == SHIM_LINK_RET) {
			rets++;
		} else if (link->kind == SHIM_LINK_ENTRY && link->flags & SHIM_PROG_NO_CONTEXT) {
			agent_run_link(t, regs, regs, site, link, state, SHIM_LINK_ENTRY, NULL);
		}
	}
	if (rets) {
		both.n = 0;
		push(t, (u64)regs + FRAME, site, &both);
	}
	agent_guard_over(t);
	return 0;
}
