/*
 * The hit at a site: the links of programs at a function's entry are run here, from one loop; what
 * else a link may be, and a hit inside of another run, go through enter.c.
 */
#include "hit.h"
#include "both.h"
#include "lean.inc"
#include "ret.h"

AT(shim_site, addr, SITE_ADDR);
AT(shim_site, first, SITE_FIRST);
AT(shim_site, func, SITE_FUNC);
AT(shim_site, flags, SITE_FLAGS);
AT(shim_site, needs, SITE_NEEDS);
AT(shim_site_link, live, LINK_LIVE + LINK_SIZE);
AT(shim_site_link, next, LINK_NEXT + LINK_SIZE);
AT(shim_site_link, session, LINK_SESSION + LINK_SIZE);
AT(shim_site_link, flags, LINK_FLAGS + LINK_SIZE);
AT(shim_site_link, image, LINK_IMAGE + LINK_SIZE);
AT(shim_site_link, cookie, LINK_COOKIE + LINK_SIZE);
AT(shim_site_link, ctl, LINK_CTL + LINK_SIZE);
AT(shim_site_link, state, LINK_STATE + LINK_SIZE);
AT(shim_site_link, lean, LINK_LEAN + LINK_SIZE);
AT(shim_site_link, prog_id, LINK_PROG + LINK_SIZE);
AT(shim_session, owner, SESSION_OWNER);
AT(shim_session, perf, SESSION_PERF);
AT(shim_session, perf_size, SESSION_PERF_SIZE);
AT(shim_ctl, backend_lock, CTL_LOCK);
AT(shim_ctl, stats, CTL_STATS);
AT(shim_ctl, nr_vcpus, CTL_VCPUS);
AT(shim_ctl, vcpu, CTL_VCPU);
AT(shim_pt_regs, ip, REGS_IP);
AT(shim_pt_regs, sp, REGS_SP);
AT(shim_vcpu, owner, 0);
AT(shim_vcpu, keeper, VCPU_KEEPER);
AT(shim_vcpu, vcpu, VCPU_NUMBER);
AT(shim_vcpu, keeps, VCPU_KEEPS);
AT(shim_vcpu, cpu, VCPU_CPU);
AT(shim_run, ctl, RUN_CTL);
AT(shim_run, regs, RUN_REGS);
AT(shim_run, thread, RUN_THREAD);
AT(shim_run, cookie, RUN_COOKIE);
AT(shim_run, func_ip, RUN_FUNC);
AT(shim_run, owner, RUN_OWNER);
AT(shim_run, vcpu, RUN_VCPU);
AT(shim_run, prog_id, RUN_PROG);
AT(shim_run, tail_calls, RUN_PROG + 4);
AT(shim_run, perf, RUN_PERF);
AT(shim_run, perf_size, RUN_PERF_SIZE);
AT(shim_run, scratch, RUN_SCRATCH);
AT(shim_run, code, RUN_CODE);
AT(shim_run, packet, RUN_PACKET);
AT(shim_run, both, RUN_BOTH);
AT(shim_run, signal, RUN_SIGNAL);
AT(shim_thread, fs_base, 0);
AT(shim_thread, tid, THREAD_TID);
AT(shim_thread, guard_sp, THREAD_GUARD);
AT(shim_thread, index, THREAD_INDEX);
AT(shim_thread, ret_block, THREAD_RET);
AT(shim_thread, tid_word, THREAD_TID_WORD);
AT(shim_thread, entry, THREAD_ENTRY);
AT(shim_thread, entry_of, THREAD_ENTRY_OF);
AT(shim_thread, runs, THREAD_RUNS);
AT(ret_block, hint, BLOCK_HINT);
AT(shim_agent, links, ROOT_LINKS);
AT(shim_agent, threads, ROOT_THREADS);
AT(shim_agent, sessions, ROOT_SESSIONS);
_Static_assert(sizeof(struct shim_thread) == 128 && sizeof(struct shim_vcpu) == 64 &&
		       sizeof(struct shim_site_link) == LINK_SIZE &&
		       sizeof(struct shim_session) == SESSION_SIZE,
	       "lean.inc");
_Static_assert(sizeof(struct ret_entry) == RET_SLOT && sizeof(struct ret_owner) == RET_SLOT &&
		       sizeof(struct ret_place) == RET_SLOT && RET_BYTES == RET_DIST,
	       "lean.inc");
_Static_assert(PROG_VCPU == SHIM_PROG_VCPU && BARE == AGENT_BARE && ENTRY == AGENT_ENTRY &&
		       RET == AGENT_RET &&
		       BARE_RET == (AGENT_PLAIN | AGENT_LEAN | AGENT_BARE | AGENT_RET) &&
		       RET_BARE == SHIM_SITE_RET_BARE && NEEDS_C == SHIM_NEEDS_C &&
		       SITE_RUN << 8 == SHIM_SITE_RUN && RUN == AGENT_RUN &&
		       RUN_LEAN == AGENT_RUN_LEAN && RUN_ENDS == AGENT_RUN_ENDS &&
		       RUN_READS_ << 8 == AGENT_RUN_READS && RUN_KEEPS << 8 == AGENT_RUN_KEEPS &&
		       RUN_QUICK << 8 == AGENT_RUN_QUICK && RUN_MAPS << 8 == AGENT_RUN_MAPS &&
		       RUN_FULL == sizeof(struct shim_run) && DEAD == SHIM_BACKEND_DEAD,
	       "lean.inc");
_Static_assert(MAX_VCPUS == SHIM_MAX_VCPUS && MAX_SESSIONS == SHIM_MAX_SESSIONS &&
		       CPU_RDPID == SHIM_CPU_RDPID && RET_SLOTS_ == RET_SLOTS &&
		       RET_DEPTH_ == RET_DEPTH && RET_RETURN == RET_INTO,
	       "lean.inc");

/* The return is wanted, for one, by the programs of `both`, which ran at the entry. Where the
 * trampoline is to go: the slot that calls body, or 0: on, since the function returns into a slot by
 * itself, or not. */
static __attribute__((noinline)) u64 push(struct shim_thread *t, u64 sp, struct shim_site *site,
					  const struct agent_both *both, u64 body)
{
	long slot = agent_ret_push(t, sp, site, body);

	if (slot < 0)
		return 0;
	if (both)
		agent_both_keep((u32)slot, both);
	return body ? agent_ret_call((u32)slot) : 0;
}

/* Of no other kind: nothing has been done. */
static __attribute__((noinline)) u64 missed(const struct shim_site_link *link)
{
	agent_missed_link(link);
	return 0;
}

/* A program has skipped the function: it returns regs->ax at once, which its return probes see. Where the
 * trampoline is to go; body: it can (SHIM_SITE_SKIPS). */
static __attribute__((noinline)) u64 skip(struct shim_thread *t, struct shim_pt_regs *regs,
					  struct shim_site *site, const struct agent_both *both,
					  u32 rets, u64 body)
{
	if (!body)
		return 0;
	for (u32 at = agent_load(&site->first), n = 0; at && n < SHIM_MAX_SITE_LINKS; n++) {
		struct shim_site_link *link = &agent_links()[(at - 1) % SHIM_MAX_SITE_LINKS];

		at = agent_load(&link->next);
		if (link->kind == SHIM_LINK_MARK && agent_wanted(link, t))
			agent_leave_skipped(t, regs, link);
	}
	if (rets)
		push(t, regs->sp, site, both, 0);
	return (u64)agent_skip;
}

/* One after the other; the guard has been passed. */
static __attribute__((noinline)) u64 links(struct shim_thread *t, struct shim_pt_regs *regs,
					   struct shim_site *site, u64 body)
{
	struct agent_both both;
	u32 rets;

	if (unlikely(regs->ip != agent_load(&site->addr)))
		return 0;
	both.n = 0;
	rets = agent_hit_links(t, regs, regs, site, SHIM_LINK_ENTRY, &both);
	if (unlikely(rets & AGENT_SKIP))
		return skip(t, regs, site, &both, rets & ~AGENT_SKIP, body);
	return rets ? push(t, regs->sp, site, &both, body) : 0;
}

/* The thread is inside a run, or was when it left that by a jump. */
static __attribute__((noinline)) u64 inside(struct shim_thread *t, struct shim_pt_regs *regs,
					    struct shim_site *site, u64 body)
{
	struct agent_guard guard;
	u64 call;

	/* by the application's stack: this may be one of ours (ownstack.S) */
	if (agent_guard_enter(t, regs->sp, &guard)) {
		agent_missed(site, 2);
		return 0;
	}
	call = links(t, regs, site, body);
	agent_guard_leave(t, &guard);
	return call;
}

/* On the application's stack, general registers only; signals may come at any instruction. A record
 * used again for another address is known by regs->ip, for good once a guard is held (table.c). body: of the trampoline that jumps to where the
 * answer says, or 0. */
u64 agent_hit(struct shim_pt_regs *regs, struct shim_site *site, u64 body)
{
	u32 at = agent_load(&site->first);
	struct shim_site_link *link;
	struct shim_thread *t;
	u64 call = 0;

	if (unlikely(!at))
		return 0;
	t = agent_thread_here();
	if (unlikely(!t)) /* more threads than blocks: nothing says that a control page is being read */
		return 0;
	if (unlikely(!agent_guard_outermost(t, regs->sp)))
		return inside(t, regs, site, body);
	at = agent_load(&site->first);
	link = &agent_links()[(at - 1) % SHIM_MAX_SITE_LINKS];
	if (likely(at) && link->kind == SHIM_LINK_ENTRY && agent_alone(link, AGENT_PLAIN) &&
	    likely(regs->ip == agent_load(&site->addr))) {
		int ran = agent_hit_run(t, regs, regs, site, link, SHIM_LINK_ENTRY);

		if (unlikely(ran != 1))
			call = ran ? skip(t, regs, site, NULL, 0, body) : missed(link);
	} else {
		call = links(t, regs, site, body);
	}
	agent_guard_over(t);
	return call;
}

enum { FRAME = sizeof(struct shim_pt_regs) };

/* Runs what needs no more registers than there are, in whatever state the guard is. Links that do,
 * or are of another kind, have come after the hit has begun: they are met by the next one. */
static __attribute__((noinline)) u64 lean_slowly(struct shim_thread *t, struct shim_pt_regs *regs,
						 struct shim_site *site, u64 ip, u64 body)
{
	u64 sp = (u64)regs + FRAME, call = 0;
	struct agent_guard guard;
	u32 rets = 0, at;

	if (agent_guard_enter(t, sp, &guard)) {
		agent_missed(site, 2);
		return 0;
	}
	at = ip == agent_load(&site->addr) ? agent_load(&site->first) : 0;
	for (u32 n = 0; at && n < SHIM_MAX_SITE_LINKS; n++) {
		struct shim_site_link *link = &agent_links()[(at - 1) % SHIM_MAX_SITE_LINKS];
		struct shim_link_state *state = agent_wanted(link, t);

		at = agent_load(&link->next);
		if (state && link->kind == SHIM_LINK_RET)
			rets++;
		else if (state && link->kind == SHIM_LINK_ENTRY && link->flags & SHIM_PROG_NO_CONTEXT)
			agent_run_link(t, regs, regs, site, link, state, SHIM_LINK_ENTRY, NULL);
	}
	if (rets)
		call = push(t, sp, site, NULL, body);
	agent_guard_leave(t, &guard);
	return call;
}

/* One after the other; the guard has been passed. */
static __attribute__((noinline)) u64 lean_links(struct shim_thread *t, struct shim_pt_regs *regs,
						struct shim_site *site, u64 body)
{
	u32 rets = 0;

	for (u32 at = agent_load(&site->first), n = 0; at && n < SHIM_MAX_SITE_LINKS; n++) {
		struct shim_site_link *link = &agent_links()[(at - 1) % SHIM_MAX_SITE_LINKS];
		struct shim_link_state *state = agent_wanted(link, t);

		at = agent_load(&link->next);
		if (unlikely(!state))
			continue;
		if (link->kind == SHIM_LINK_RET)
			rets++;
		else if (link->kind != SHIM_LINK_ENTRY || !(link->flags & SHIM_PROG_NO_CONTEXT))
			continue;
		else if (unlikely(agent_counts_time(link)))
			agent_run_link(t, regs, regs, site, link, state, SHIM_LINK_ENTRY, NULL);
		else if (unlikely(!agent_hit_run(t, regs, regs, site, link, SHIM_LINK_RET)))
			__atomic_fetch_add(&state->missed, 1, __ATOMIC_RELAXED);
	}
	return rets ? push(t, (u64)regs + FRAME, site, NULL, body) : 0;
}

u64 agent_hit_lean(struct shim_pt_regs *regs, struct shim_site *site, u64 ip, u64 body)
{
	u32 at = agent_load(&site->first);
	struct shim_site_link *link;
	struct shim_thread *t;
	u64 call = 0;

	if (unlikely(!at))
		return 0;
	t = agent_thread_here();
	if (unlikely(!t))
		return 0;
	if (unlikely(!agent_guard_outermost(t, (u64)regs + FRAME)))
		return lean_slowly(t, regs, site, ip, body);
	at = agent_load(&site->first);
	link = &agent_links()[(at - 1) % SHIM_MAX_SITE_LINKS];
	if (unlikely(ip != agent_load(&site->addr)))
		at = 0;
	if (likely(at) && agent_alone(link, AGENT_LEAN)) {
		if (link->kind == SHIM_LINK_RET)
			call = push(t, (u64)regs + FRAME, site, NULL, body);
		else if (unlikely(!agent_hit_run(t, regs, regs, site, link, SHIM_LINK_RET)))
			agent_missed_link(link);
	} else if (at) {
		call = lean_links(t, regs, site, body);
	}
	agent_guard_over(t);
	return call;
}

static __attribute__((noinline)) void event_inside(struct shim_thread *t, void *ctx,
						   struct shim_pt_regs *regs, struct shim_site *site)
{
	struct agent_guard guard;

	if (agent_guard_enter(t, (u64)__builtin_frame_address(0), &guard)) {
		agent_missed(site, SHIM_LINK_ENTRY);
		return;
	}
	agent_run_links_on(t, ctx, regs, site);
	agent_guard_leave(t, &guard);
}

void agent_run_event_in_c(struct shim_thread *t, struct shim_site *site, void *ctx,
			  struct shim_pt_regs *regs)
{
	struct shim_site_link *link;
	u32 at;
	u8 here; /* in this frame */

	if (unlikely(!agent_guard_outermost(t, agent_app_sp((u64)&here)))) {
		event_inside(t, ctx, regs, site);
		return;
	}
	at = agent_load(&site->first);
	link = &agent_links()[(at - 1) % SHIM_MAX_SITE_LINKS];
	if (likely(at) && link->kind == SHIM_LINK_ENTRY && agent_alone(link, AGENT_PLAIN)) {
		if (unlikely(!agent_hit_run(t, ctx, regs, site, link, SHIM_LINK_ENTRY)))
			agent_missed_link(link);
	} else {
		agent_run_links_on(t, ctx, regs, site);
	}
	agent_guard_over(t);
}

void agent_run_event(u32 event, void *ctx, struct shim_pt_regs *regs)
{
	struct shim_site *site = agent_event_site(event);
	struct shim_thread *t = site ? agent_thread_here() : NULL;

	if (t)
		agent_run_event_of(t, site, ctx, regs);
}
