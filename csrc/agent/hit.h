/*
 * What every hit does, inline: who runs here, the guard, is a link meant, the call of an image. What
 * is not usual is left to thread.c, guard.c and enter.c.
 */
#ifndef AGENT_HIT_H
#define AGENT_HIT_H

#include "state.h"

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

static inline u32 agent_thread_hash(u64 fs_base)
{
	return (u32)((fs_base >> 6) * 0x9e3779b97f4a7c15ull >> 52);
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
	if (unlikely(agent_private.fences))
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

/* outer_sp is 0 already, and held is put back by who took it. */
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
	return (struct shim_ctl *)((struct shim_session *)link->home)->ctl;
}

/* Is this link to be run by this process now? One look at shared memory decides it. */
static inline struct shim_link_state *agent_wanted(const struct shim_site_link *link,
						   const struct shim_thread *t)
{
	struct shim_link_state *state = (struct shim_link_state *)link->state;

	/* as long as it is, its session is there */
	if (unlikely(!agent_load(&link->live)))
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

#endif
