/*
 * The re-entrancy guard. Runs do not nest by themselves (no probed function is called from one);
 * what is met inside a run is a signal handler, or a run that never ended (longjmp out of a
 * handler, cancellation). A hit above the stored stack pointer proves the latter.
 *
 * A handler's run goes on inside the interrupted one, to one level, unless that holds a lock.
 */
#include "keys.h"

struct altstack {
	u64 sp;
	s32 flags;
	u32 pad;
	u64 size;
};

/* Is the stored run over? Only asked when there is one, so the system call costs nothing else. */
int agent_abandoned(u64 stored, u64 sp)
{
	struct altstack alt = { 0, 0, 0, 0 };

	if (shim_sys2(NR_SIGALTSTACK, 0, &alt) == 0 && alt.size) {
		int stored_in = stored - alt.sp < alt.size;
		int now_in = sp - alt.sp < alt.size;

		if (stored_in != now_in)
			return stored_in; /* we left the handler's stack: its run is over */
	}
	return sp >= stored;
}

/* One that it is to keep from now on, or one for this run. */
u32 agent_vcpu_slowly(struct shim_thread *t, struct shim_ctl *ctl, u32 owner, u32 session)
{
	u32 got;

	if (!t->entry && !t->entry_of && t->fs_base) { /* else it stands in for another one */
		u32 own = shim_vcpu_entry(ctl, owner);

		agent_store(&t->entry_of, (u16)(own ? session : 1));
		agent_store(&t->entry, (u16)own);
	}
	if (t->entry && t->entry_of == session && !ctl->vcpu[t->entry % SHIM_MAX_VCPUS].owner) {
		got = shim_vcpu_keep(ctl, t->entry, owner);
		if (got != SHIM_NO_VCPU)
			return got;
	}
	return shim_vcpu_claim(ctl, owner);
}

/* Virtual CPUs owned by this thread in any session: it is in no run. */
static void release_held(struct shim_thread *t)
{
	for (u32 i = 0; i < shim_agent_root.nr_sessions; i++) {
		struct shim_session *session = &shim_agent_root.sessions[i];
		struct shim_ctl *ctl = (struct shim_ctl *)session->ctl;
		u32 owner = session->owner | t->index;

		if (!session->id || !session->owner || agent_shut(i))
			continue;
		for (u32 cpu = 0; cpu < ctl->nr_vcpus && cpu < SHIM_MAX_VCPUS; cpu++)
			if (ctl->vcpu[cpu].owner == owner)
				shim_vcpu_release(ctl, cpu, owner);
		if (t->entry && t->entry_of == i)
			agent_store(&ctl->vcpu[t->entry % SHIM_MAX_VCPUS].owner, 0u);
	}
}

static long nested(struct shim_thread *t, u64 sp)
{
	if (t->outer_sp && agent_abandoned(t->outer_sp, sp))
		t->outer_sp = 0;
	if (agent_abandoned(t->guard_sp, sp)) {
		t->guard_sp = t->outer_sp;
		t->outer_sp = 0;
		t->locks_held = 0; /* its lock is taken over by its own owner word, shim_lock */
		if (!t->guard_sp)
			release_held(t);
	}
	if (!t->guard_sp)
		return 0;
	return t->locks_held || t->outer_sp ? -E_BUSY : 0;
}

long agent_guard_enter(struct shim_thread *t, u64 sp, struct agent_guard *g)
{
	if (__builtin_expect(t->guard_sp != 0, 0) && nested(t, sp))
		return -E_BUSY;
	g->prev_sp = t->guard_sp;
	g->prev_outer = t->outer_sp;
	t->outer_sp = g->prev_sp;
	agent_store(&t->guard_sp, sp);
	if (!g->prev_sp) /* of the outermost: who waits for it is not misled by a handler's */
		agent_store(&t->runs, t->runs + 1);
	/* who removes a link first clears it, then looks at guards: one of the two sees the other */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return 0;
}

void agent_guard_leave(struct shim_thread *t, const struct agent_guard *g)
{
	agent_store(&t->guard_sp, g->prev_sp);
	t->outer_sp = g->prev_outer;
}
