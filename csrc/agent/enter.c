/* Runs of programs, of whatever kind the link is; the usual ones are in hit.c. */
#include "both.h"
#include "hit.h"
#include "proc.h"
#include "stays.h"

enum { SIG_SETMASK_ = 2 };

static void missed(struct shim_link_state *state)
{
	__atomic_fetch_add(&state->missed, 1, __ATOMIC_RELAXED);
}

/* What ENABLE_STATS asked for: one more run of the program, that began at `start`. */
static void count(struct shim_ctl *ctl, u32 prog_id, u64 start)
{
	struct shim_stat *stat = &ctl->stat[prog_id % SHIM_MAX_STATS];

	if (agent_load(&stat->prog_id) != prog_id)
		return;
	__atomic_fetch_add(&stat->run_cnt, 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(&stat->run_time_ns, shim_now_ns() - start, __ATOMIC_RELAXED);
}

/* One image in one session, so many times. 0, or -EBUSY: no slot in the session, or no virtual CPU
 * (not that one, if cpu names one). */
static long run_image(struct shim_thread *t, u32 index, u32 flags, u64 image, void *ctx,
		      struct shim_run *run, u32 cpu, u32 times, u64 *retval)
{
	struct shim_session *session = &shim_agent_root.sessions[index];
	struct shim_ctl *ctl = (struct shim_ctl *)session->ctl;

	run->owner = agent_load(&session->owner);
	if (!run->owner)
		return -E_BUSY;
	run->owner |= t->index;
	run->vcpu = SHIM_NO_VCPU;
	if (flags & SHIM_PROG_VCPU) {
		run->vcpu = cpu == SHIM_NO_VCPU ? agent_vcpu_here(t, ctl, run->owner, index)
						: shim_vcpu_claim_at(ctl, cpu, run->owner);
		if (run->vcpu == SHIM_NO_VCPU)
			return -E_BUSY;
	}
	run->ctl = (u64)ctl;
	run->thread = (u64)t;
	run->perf = session->perf;
	run->perf_size = session->perf_size;
	while (times--) {
		u64 start = agent_load(&ctl->stats) ? shim_now_ns() : 0;

		run->tail_calls = 0;
		run->scratch[0] = run->scratch[1] = run->scratch[2] = run->signal = 0;
		*retval = agent_call_image(image, ctx, run);
		if (start)
			count(ctl, run->prog_id, start);
	}
	if (run->vcpu != SHIM_NO_VCPU)
		shim_vcpu_release(ctl, run->vcpu, run->owner);
	if (run->signal)
		shim_signal_flush(run);
	return 0;
}

/* Bytes in front of a window (endbr64) are there themselves. */
u64 agent_original_code(const struct shim_site *site)
{
	const struct shim_site *at = site;

	if (site->host && site->host <= SHIM_MAX_SITES)
		at = &agent_sites()[site->host - 1];
	if (at->flags & SHIM_SITE_HOLE)
		at = site;
	if (site->addr - at->window < at->window_len)
		return (u64)at->orig + (site->addr - at->window);
	return at->window && site->addr + 4 == at->window ? site->addr : 0;
}

enum { SKIPS_BIT = 32 };

/* What the program returned, and SKIPS_BIT; -EBUSY: it did not run, which is counted. */
static long run_link(struct shim_thread *t, void *ctx, struct shim_pt_regs *regs,
		     struct shim_site *site, const struct shim_site_link *link,
		     struct shim_link_state *state, struct shim_both *both)
{
	struct shim_run run;
	u64 retval;

	run.regs = (u64)regs;
	run.cookie = link->cookie;
	run.func_ip = site->func;
	run.both = (u64)both;
	run.code = link->kind == SHIM_LINK_ENTRY ? agent_original_code(site) : 0;
	run.prog_id = link->prog_id;
	run.packet = 0;
	if (run_image(t, link->session % SHIM_MAX_SESSIONS, link->flags, link->image, ctx, &run,
		      SHIM_NO_VCPU, 1, &retval)) {
		missed(state);
		return -E_BUSY;
	}
	return (long)((u32)retval | (run.signal & SHIM_RUN_SKIP ? 1ull << SKIPS_BIT : 0));
}

/* A program of both ends, at one of them. 1: it is to run at the return. */
static u32 run_both(struct shim_thread *t, struct shim_pt_regs *regs, struct shim_site *site,
		    const struct shim_site_link *link, struct shim_link_state *state, u32 kind,
		    struct agent_both *both)
{
	struct shim_both nobody = { 0, 0 };
	struct agent_both_run *run;

	if (kind == SHIM_LINK_RET) {
		run = agent_both_again(both, link);
		if (run)
			run_link(t, regs, regs, site, link, state, &run->seen);
		return 0;
	}
	run = agent_both_begin(both, link);
	if (run_link(t, regs, regs, site, link, state, run ? &run->seen : &nobody))
		return 0;
	if (!run) {
		missed(state); /* the return */
		return 0;
	}
	both->n++;
	return 1;
}

/* The hit is at a `ret`: registers as they are once it has been executed. */
static void run_at_ret(struct shim_thread *t, const struct shim_pt_regs *regs, struct shim_site *site,
		       const struct shim_site_link *link, struct shim_link_state *state)
{
	struct shim_pt_regs after;

	agent_copy(&after, regs, sizeof(after));
	after.ip = *(const u64 *)regs->sp;
	after.sp += 8;
	run_link(t, &after, &after, site, link, state, NULL);
}

u32 agent_run_link(struct shim_thread *t, void *ctx, struct shim_pt_regs *regs, struct shim_site *site,
		   const struct shim_site_link *link, struct shim_link_state *state, u32 kind,
		   struct agent_both *both)
{
	if (link->kind == kind) {
		long ran = run_link(t, ctx, regs, site, link, state, NULL);

		return ran > 0 && ran >> SKIPS_BIT ? AGENT_SKIP : 0;
	}
	if (link->kind == SHIM_LINK_BOTH)
		return run_both(t, regs, site, link, state, kind, both);
	else if (link->kind == SHIM_LINK_AT_RET && kind == SHIM_LINK_ENTRY)
		run_at_ret(t, regs, site, link, state);
	else if (link->kind >= SHIM_LINK_MARK && kind == SHIM_LINK_ENTRY)
		agent_leave_link(t, regs, site, link);
	else
		return 1;
	return 0;
}

static u32 run_links(struct shim_thread *t, void *ctx, struct shim_pt_regs *regs,
		     struct shim_site *site, u32 kind, struct agent_both *both)
{
	u32 others = 0;

	for (u32 at = agent_load(&site->first), n = 0; at && n < SHIM_MAX_SITE_LINKS; n++) {
		struct shim_site_link *link = &agent_links()[(at - 1) % SHIM_MAX_SITE_LINKS];
		struct shim_link_state *state = agent_wanted(link, t);

		if (state)
			others = agent_and(others,
					   agent_run_link(t, ctx, regs, site, link, state, kind, both));
		at = agent_load(&link->next);
	}
	return others;
}

u32 agent_run_links(struct shim_thread *t, struct shim_pt_regs *regs, struct shim_site *site, u32 kind,
		    struct agent_both *both)
{
	return run_links(t, regs, regs, site, kind, both);
}

void agent_run_links_on(struct shim_thread *t, void *ctx, struct shim_pt_regs *regs,
			struct shim_site *site)
{
	run_links(t, ctx, regs, site, SHIM_LINK_ENTRY, NULL);
}

static u32 run_func(struct shim_thread *t, struct shim_site *site, struct shim_pt_regs *ctx,
		    struct shim_pt_regs *regs, u32 kind, u32 last)
{
	for (u32 at = agent_load(&site->first), n = 0; at && n < SHIM_MAX_SITE_LINKS; n++) {
		struct shim_site_link *link = &agent_links()[(at - 1) % SHIM_MAX_SITE_LINKS];
		struct shim_link_state *state = agent_wanted(link, t);

		if (at == last)
			break;
		if (state && link->kind == kind)
			run_link(t, ctx, regs, site, link, state, NULL);
		if (kind == SHIM_LINK_ENTRY && ctx->ip)
			return at;
		at = agent_load(&link->next);
	}
	return 0;
}

u32 agent_run_func(u32 event, struct shim_pt_regs *ctx, struct shim_pt_regs *regs, u32 kind, u32 last)
{
	struct shim_site *site = agent_event_site(event);
	struct shim_thread *t = site ? agent_thread() : NULL;
	struct agent_guard guard;
	u32 by;

	if (!t)
		return 0;
	if (agent_guard_enter(t, agent_app_sp((u64)__builtin_frame_address(0)), &guard)) {
		agent_missed(site, kind);
		return 0;
	}
	by = run_func(t, site, ctx, regs, kind, last);
	agent_guard_leave(t, &guard);
	return by;
}

/* Signals are blocked: what a handler of this thread's would find of a run in another's name is
 * half of each. */
void agent_run_event_as(u32 event, void *ctx, struct shim_stand_in *as, u32 session)
{
	u32 index = agent_load(&shim_agent_root.event_site[event % SHIM_MAX_EVENTS]);
	struct shim_site *site = &agent_sites()[(index - 1) % SHIM_MAX_SITES];
	struct shim_thread *t = index ? agent_thread() : NULL;
	u64 all = ~0ull, before = 0;
	struct agent_guard guard;

	if (!t || !agent_load(&site->first) || site->addr != SHIM_EVENT_ADDR + event)
		return;
	shim_sys4(NR_SIGPROCMASK, SIG_SETMASK_, &all, &before, 8);
	agent_stays_forget();
	if (agent_guard_enter(t, agent_app_sp((u64)__builtin_frame_address(0)), &guard)) {
		agent_missed(site, SHIM_LINK_ENTRY);
		goto out;
	}
	as->thread.fs_base = 0;
	as->thread.entry = 0;
	as->thread.index = t->index;
	for (u32 at = agent_load(&site->first), n = 0; at && n < SHIM_MAX_SITE_LINKS; n++) {
		struct shim_site_link *link = &agent_links()[(at - 1) % SHIM_MAX_SITE_LINKS];
		struct shim_link_state *state = agent_wanted(link, &as->thread);

		if (state && link->kind == SHIM_LINK_ENTRY &&
		    (session == SHIM_MAX_SESSIONS || link->session == session))
			run_link(&as->thread, ctx, NULL, site, link, state, NULL);
		at = agent_load(&link->next);
	}
	agent_guard_leave(t, &guard);
out:
	shim_sys4(NR_SIGPROCMASK, SIG_SETMASK_, &before, 0, 8);
}

void agent_missed(struct shim_site *site, u32 kind)
{
	struct shim_thread nobody = { .tgid = agent_seen_pid() };

	for (u32 at = agent_load(&site->first), n = 0; at && n < SHIM_MAX_SITE_LINKS; n++) {
		struct shim_site_link *link = &agent_links()[(at - 1) % SHIM_MAX_SITE_LINKS];
		struct shim_link_state *state = agent_wanted(link, &nobody);

		/* whether a call is left here is not known */
		if (state && link->kind != SHIM_LINK_LEAVE &&
		    (kind > SHIM_LINK_RET || link->kind == kind || link->kind == SHIM_LINK_BOTH))
			missed(state);
		at = agent_load(&link->next);
	}
}

void agent_missed_link(const struct shim_site_link *link)
{
	struct shim_thread nobody = { .tgid = agent_seen_pid() };
	struct shim_link_state *state = agent_wanted(link, &nobody);

	if (state)
		missed(state);
}

void agent_run_one(struct shim_thread *t, struct shim_pt_regs *regs, const struct shim_site_link *link,
		   u64 func)
{
	struct shim_link_state *state = agent_wanted(link, t);
	struct shim_site of = { .func = func };

	if (state)
		run_link(t, regs, regs, &of, link, state, NULL);
}

/* The runnable of a program in a session, unless its backend is dead. A copy: records are reused. */
static int runnable(u32 session_id, u32 prog_id, struct shim_runnable *out)
{
	struct shim_agent *root = &shim_agent_root;

	for (u32 i = 0; i < root->nr_runnables; i++) {
		struct shim_runnable *r = &root->runnables[i];
		struct shim_session *session = &root->sessions[r->session % SHIM_MAX_SESSIONS];
		struct shim_ctl *ctl = (struct shim_ctl *)session->ctl;

		if (!agent_load(&r->live) || r->prog_id != prog_id || session->id != session_id || !ctl)
			continue;
		if (agent_load(&ctl->backend_lock[0]) & SHIM_BACKEND_DEAD)
			continue;
		*out = *r;
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		out->image = agent_load(&r->image); /* a better one may just have come (SWAP) */
		return agent_load(&r->live) && r->prog_id == prog_id;
	}
	return 0;
}

/* As an image is called. */
static u64 callback_image(void *ctx, struct shim_run *run)
{
	const struct agent_callback *call = ctx;

	return shim_callback(call->fn, run, call->r1, call->r2, call->r3, 0);
}

static long run_prog(const struct agent_run *what, void *ctx, u64 *retval)
{
	struct agent_guard guard;
	struct shim_runnable r;
	struct shim_thread *t;
	struct shim_run run;
	long ret = -E_NOENT;

	if (!agent_load(&agent_private.ready))
		return -E_NOENT;
	t = agent_thread();
	if (!t || agent_guard_enter(t, agent_app_sp((u64)__builtin_frame_address(0)), &guard))
		return -E_BUSY;
	agent_alone_run(t);
	if (runnable(what->session_id, what->prog_id, &r)) {
		run.regs = run.func_ip = run.code = run.both = 0;
		run.cookie = r.cookie;
		run.prog_id = what->prog_id;
		run.packet = what->packet ? (u64)ctx : 0;
		if (what->callback)
			r.image = (u64)callback_image;
		ret = run_image(t, r.session % SHIM_MAX_SESSIONS, r.flags, r.image, ctx, &run,
				what->cpu, what->times, retval);
	}
	agent_guard_leave(t, &guard);
	return ret;
}

long agent_run_prog(const struct agent_run *what, void *ctx, u64 *retval)
{
	u32 was_open = shim_key_open();
	long ret = run_prog(what, ctx, retval);

	shim_key_back(was_open);
	return ret;
}
