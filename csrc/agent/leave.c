/*
 * Return probes of functions whose return address must stay as it is (rewrite/returns.py): their
 * entry remembers where it stands and what it is; the instruction that leaves them, which other
 * functions may share, looks for that.
 *
 * One table for the process, since a context that is left by one thread may be gone on with by
 * another. What is never left (an exception, longjmp) is known by another word standing there.
 */
#include "state.h"

enum { PENDING = 1024, NEAR = 16 };

struct pending {
	u64 where; /* the return address's place; bit 0: being filled in; 0: free */
	u64 back; /* what stands there */
	u64 link_id;
	u64 func;
	u32 session;
	u32 key; /* of the links at its entry and at what leaves it */
};

static struct pending table[PENDING];

static struct pending *near_to(u64 where, u64 link_id, u32 n)
{
	u64 hash = (where >> 3 ^ link_id * 31) * 0x9e3779b97f4a7c15ull >> 40;

	return &table[(hash + n) % PENDING];
}

/* Two functions of one link stand at one place, if one jumps to the other at its end. */
static int same(const struct pending *p, u64 where, const struct shim_site_link *link)
{
	return agent_load(&p->where) == where && p->link_id == link->link_id &&
	       p->session == link->session && p->key == link->key;
}

/* Something else stands there now. */
static int over(const struct pending *p, u64 where)
{
	u64 word;

	return !(where & 1) && (shim_copy_from(&word, where, 8) || word != p->back);
}

static struct pending *claim(const struct shim_site_link *link, u64 where)
{
	for (u32 n = 0; n < NEAR; n++) {
		struct pending *p = near_to(where, link->link_id, n);
		u64 there = agent_load(&p->where);

		if (there && !same(p, where, link) && !over(p, there))
			continue;
		if (__atomic_compare_exchange_n(&p->where, &there, where | 1, 0, __ATOMIC_ACQUIRE,
						__ATOMIC_RELAXED))
			return p;
	}
	return NULL;
}

static void remember(struct shim_pt_regs *regs, u64 func, const struct shim_site_link *link)
{
	struct pending *p = claim(link, regs->sp);

	if (!p) {
		agent_missed_link(link);
		return;
	}
	p->back = *(u64 *)regs->sp;
	p->link_id = link->link_id;
	p->session = link->session;
	p->key = link->key;
	p->func = func;
	agent_store(&p->where, regs->sp);
}

/* What a function is told that has been called from here: 0, it was not. */
static u64 recall(struct shim_pt_regs *regs, const struct shim_site_link *link)
{
	for (u32 n = 0; n < NEAR; n++) {
		struct pending *p = near_to(regs->sp, link->link_id, n);
		u64 where = regs->sp, func = p->func;

		if (!same(p, where, link) || p->back != *(u64 *)where)
			continue;
		/* who returns again finds it again */
		if (link->flags & SHIM_PROG_AGAIN ||
		    __atomic_compare_exchange_n(&p->where, &where, 0, 0, __ATOMIC_ACQ_REL,
						__ATOMIC_RELAXED))
			return func;
	}
	return 0;
}

/* As they are once it has returned. */
static void returned(struct shim_pt_regs *after, const struct shim_pt_regs *regs)
{
	agent_copy(after, regs, sizeof(*after));
	after->ip = *(const u64 *)regs->sp;
	after->sp = regs->sp + 8;
}

void agent_leave_skipped(struct shim_thread *t, struct shim_pt_regs *regs,
			 const struct shim_site_link *link)
{
	u64 func = recall(regs, link);
	struct shim_pt_regs after;

	if (!func)
		return;
	returned(&after, regs);
	agent_run_one(t, &after, link, func);
}

void agent_leave_link(struct shim_thread *t, struct shim_pt_regs *regs, struct shim_site *site,
		      const struct shim_site_link *link)
{
	struct shim_pt_regs after;
	struct agent_guard guard;
	u64 func;

	if (link->kind == SHIM_LINK_MARK) {
		remember(regs, site->func, link);
		return;
	}
	func = recall(regs, link);
	if (!func)
		return;
	returned(&after, regs);
	if (!(link->flags & SHIM_PROG_AGAIN)) {
		agent_run_one(t, &after, link, func);
		return;
	}
	/* perhaps a child that runs in its parent's memory */
	t = agent_thread_asked();
	if (!t || agent_guard_enter(t, (u64)__builtin_frame_address(0), &guard)) {
		agent_missed_link(link);
		return;
	}
	agent_run_one(t, &after, link, func);
	agent_guard_leave(t, &guard);
}
