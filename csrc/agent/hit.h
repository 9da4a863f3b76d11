/*
 * What every hit does, inline: who runs here, the guard, is a link meant, the call of an image. What
 * is not usual is left to thread.c, guard.c and enter.c.
 */
#ifndef AGENT_HIT_H
#define AGENT_HIT_H

#include "shim_keys.h"
#include "shim_vcpu.h"
#include "state.h"

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

static inline u32 agent_thread_hash(u64 fs_base)
{
	return (u32)(fs_base * 0x9e3779b97f4a7c15ull >> 52);
}

/* agent_thread(), where the block is the first one of its key. A free block has no tid_word. */
static inline struct shim_thread *agent_thread_here(void)
{
	u64 fs_base = agent_fs_base();
	struct shim_thread *t = &agent_threads()[agent_thread_hash(fs_base)];

	if (likely(t->fs_base == fs_base && t->tid_word) &&
	    likely(__atomic_load_n((u32 *)t->tid_word, __ATOMIC_RELAXED) == t->tid) &&
	    likely(!__atomic_load_n(&agent_vforks, __ATOMIC_RELAXED)))
		return t;
	return agent_thread();
}

/* Who takes something away first clears it, then looks at guards: one of the two sees the other,
 * since he makes all CPUs order their accesses meanwhile (agent_barrier). */
static inline void agent_guard_order(void)
{
	if (unlikely(agent_fences))
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
	else
		__atomic_signal_fence(__ATOMIC_SEQ_CST);
}

/* A run inside of no other: 1; 0: the thread is inside one, guard.c says what that means. */
static inline int agent_guard_outermost(struct shim_thread *t, u64 sp)
{
	if (unlikely(t->guard_sp))
		return 0;
	agent_store(&t->guard_sp, sp);
	agent_store(&t->runs, t->runs + 1);
	agent_guard_order();
	return 1;
}

/* outer_sp is 0 already. */
static inline void agent_guard_over(struct shim_thread *t)
{
	agent_store(&t->guard_sp, 0ull);
}

/* The link's session says where its program may run. */
static inline int agent_elsewhere(const struct shim_site_link *link, const struct shim_thread *t)
{
	return (link->tid && link->tid != t->tid) ||
	       (link->cpu && link->cpu != (shim_this_cpu() & 0xfff) + 1);
}

static inline struct shim_ctl *agent_ctl(const struct shim_site_link *link)
{
	return (struct shim_ctl *)link->ctl;
}

/* Is this link to be run by this process now? One look at shared memory decides it. */
static inline struct shim_link_state *agent_wanted(const struct shim_site_link *link,
						   const struct shim_thread *t)
{
	struct shim_link_state *state = (struct shim_link_state *)link->state;

	/* as long as it is, its session is there */
	if (unlikely(!agent_load(&link->live)))
		return NULL;
	if (unlikely(link->flags & SHIM_PROG_KEYED) && shim_key_closed())
		return NULL;
	if (unlikely(agent_load(&agent_ctl(link)->backend_lock[0]) & SHIM_BACKEND_DEAD))
		return NULL;
	if (unlikely(!agent_load(&state->enabled)))
		return NULL;
	if (unlikely((link->tgid && link->tgid != t->tgid) || (state->tgid && state->tgid != t->tgid)))
		return NULL;
	if (unlikely((link->cpu || link->tid) && agent_elsewhere(link, t)))
		return NULL;
	return state;
}

/* Somebody asked for it by ENABLE_STATS. */
static inline int agent_counts_time(const struct shim_site_link *link)
{
	return agent_load(&agent_ctl(link)->stats) != 0;
}

/* As agent_call_image (image.S), for who keeps nothing in registers meanwhile. */
static inline u64 agent_call_here(u64 image, void *ctx, struct shim_run *run)
{
	u64 result = image;

	__asm__ volatile("mov %%rsp, %c3(%%rsi)\n\tcall *%0"
			 : "+a"(result), "+D"(ctx), "+S"(run)
			 : "i"(offsetof(struct shim_run, scratch) + 24)
			 : "rbx", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
			   "rbp", "memory", "cc");
	return result;
}

/* The virtual CPU that the thread keeps, csrc/runtime/vcpu.c; or else one. */
static inline u32 agent_vcpu_here(struct shim_thread *t, struct shim_ctl *ctl, u32 owner, u32 session)
{
	if (likely(t->entry && t->entry_of == session) &&
	    likely(!ctl->vcpu[t->entry % SHIM_MAX_VCPUS].owner)) {
		u32 vcpu = shim_vcpu_again(ctl, t->entry, owner);

		if (likely(vcpu != SHIM_NO_VCPU))
			return vcpu;
	}
	return agent_vcpu_slowly(t, ctl, owner, session);
}

/* The virtual CPU of a run that needs one; 0: there is none to be had. */
static inline int agent_take_vcpu(struct shim_thread *t, struct shim_ctl *ctl, struct shim_run *run,
				  const struct shim_site_link *link)
{
	run->vcpu = SHIM_NO_VCPU;
	if (!(link->flags & SHIM_PROG_VCPU))
		return 1;
	run->vcpu = agent_vcpu_here(t, ctl, run->owner, link->session % SHIM_MAX_SESSIONS);
	return likely(run->vcpu != SHIM_NO_VCPU);
}

/* One program at the entry, or (func) the return, of a function. 0: it did not run; AGENT_SKIP is set: the
 * function is not to run. */
static inline __attribute__((always_inline)) int
agent_hit_run(struct shim_thread *t, void *ctx, struct shim_pt_regs *regs, const struct shim_site *site,
	      const struct shim_site_link *link, u32 kind)
{
	struct shim_session *session = &shim_agent_root.sessions[link->session % SHIM_MAX_SESSIONS];
	struct shim_ctl *ctl = agent_ctl(link);
	u32 owner = agent_load(&session->owner);
	struct shim_run run;

	if (unlikely(!owner))
		return 0;
	run.thread = (u64)t;
	run.cookie = link->cookie;
	run.func_ip = site->func;
	run.owner = owner | t->index;
	run.signal = 0;
	if (!(link->flags & SHIM_PROG_BARE)) {
		run.ctl = (u64)ctl;
		run.regs = (u64)regs;
		run.prog_id = link->prog_id;
		run.tail_calls = 0;
		run.perf = session->perf;
		run.perf_size = session->perf_size;
		run.scratch[0] = run.scratch[1] = run.scratch[2] = 0;
		run.code = 0;
		if (kind == SHIM_LINK_ENTRY && !(link->flags & SHIM_PROG_NO_STACKS))
			run.code = agent_original_code(site);
		run.packet = run.both = 0;
	}
	if (!agent_take_vcpu(t, ctl, &run, link))
		return 0;
	agent_call_here(link->image, ctx, &run);
	if (run.vcpu != SHIM_NO_VCPU)
		shim_vcpu_release(ctl, run.vcpu, run.owner);
	if (unlikely(run.signal)) {
		shim_signal_flush(&run);
		if (run.signal & SHIM_RUN_SKIP)
			return 1 | (int)AGENT_SKIP;
	}
	return 1;
}

/* What agent_run_link() has answered for two. */
static inline u32 agent_and(u32 a, u32 b)
{
	return ((a & ~AGENT_SKIP) + (b & ~AGENT_SKIP)) | ((a | b) & AGENT_SKIP);
}

/* Links of the site; how many want the return, with AGENT_SKIP if one of them skips the function. Those
 * that count their time, and what is not plain, by enter.c. */
static inline __attribute__((always_inline)) u32 agent_hit_links(struct shim_thread *t, void *ctx,
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
			u32 ran = (u32)agent_hit_run(t, ctx, regs, site, link, kind);

			if (unlikely(!ran))
				__atomic_fetch_add(&state->missed, 1, __ATOMIC_RELAXED);
			others |= ran & AGENT_SKIP;
		} else if (link->kind != kind && link->kind <= SHIM_LINK_RET) {
			others++; /* of the other end */
		} else {
			others = agent_and(others,
					   agent_run_link(t, ctx, regs, site, link, state, kind, both));
		}
	}
	return others;
}

/* NULL: nothing is attached. */
static inline struct shim_site *agent_event_site(u32 event)
{
	u32 index = agent_load(&shim_agent_root.event_site[event % SHIM_MAX_EVENTS]);
	struct shim_site *site;

	if (!index || index > SHIM_MAX_SITES)
		return NULL;
	site = &agent_sites()[index - 1];
	return agent_load(&site->first) && site->addr == SHIM_EVENT_ADDR + event ? site : NULL;
}

/* A link that is alone, of a session that is alive, without anything that has to be looked at more
 * closely. Two words at once: live and no next one; enabled and for every process. how: AGENT_*. */
static inline int agent_alone(const struct shim_site_link *link, u32 how)
{
	_Static_assert(offsetof(struct shim_site_link, next) == 4, "two words");
	_Static_assert(offsetof(struct shim_link_state, tgid) == 4, "two words");
	return likely(__atomic_load_n((const u64 *)link, __ATOMIC_ACQUIRE) == 1) &&
	       likely(link->lean & how) &&
	       likely(__atomic_load_n((const u64 *)link->state, __ATOMIC_ACQUIRE) == 1) &&
	       likely(!(agent_load(&agent_ctl(link)->backend_lock[0]) & SHIM_BACKEND_DEAD)) &&
	       likely(!agent_counts_time(link));
}

#endif
