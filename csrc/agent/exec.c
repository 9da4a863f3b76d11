/*
 * The exit of an execve that succeeds is in the new image. The old one leaves a note in the control
 * page of each session, by the process's number and start time, which an exec does not change (a child
 * of vfork has no place of its own elsewhere); the new image's agent takes it out and tells of the exit.
 */
#include "proc.h"
#include "sys.h"

enum { PROBES = 16 };

static u32 slot(u32 pid, u32 i)
{
	return (pid * 0x9e3779b1u + i) % SHIM_MAX_EXECS;
}

static int put(struct shim_ctl *ctl, u32 pid, u32 nr, u64 start)
{
	for (u32 i = 0; i < PROBES; i++) {
		struct shim_exec *e = &ctl->exec[slot(pid, i)];
		u32 there = agent_load(&e->pid);

		/* one of a process that did not come back is written over in the end */
		if (there && there != pid && i + 1 < PROBES)
			continue;
		agent_store(&e->pid, 0u);
		e->nr = nr;
		e->start_time = start;
		agent_store(&e->pid, pid);
		return 1;
	}
	return 0;
}

static long take(struct shim_ctl *ctl, u32 pid, u64 start)
{
	for (u32 i = 0; i < PROBES; i++) {
		struct shim_exec *e = &ctl->exec[slot(pid, i)];
		long nr;

		if (agent_load(&e->pid) != pid)
			continue;
		nr = e->start_time == start ? (long)e->nr : -1;
		agent_store(&e->pid, 0u);
		return nr;
	}
	return -1;
}

/* In every session that is alive: puts (nr >= 0), or takes. The number that was taken, or -1. */
static long notes(struct shim_thread *t, u32 pid, long nr, u64 start)
{
	struct agent_guard guard;
	long found = -1;

	if (agent_guard_enter(t, agent_app_sp((u64)__builtin_frame_address(0)), &guard))
		return -1;
	for (u32 i = 0; i < shim_agent_root.nr_sessions; i++) {
		struct shim_session *session = &shim_agent_root.sessions[i];
		struct shim_ctl *ctl = (struct shim_ctl *)session->ctl;
		long taken;

		if (!session->id || !ctl || agent_load(&ctl->backend_lock[0]) & SHIM_BACKEND_DEAD)
			continue;
		if (nr >= 0) {
			put(ctl, pid, (u32)nr, start);
			continue;
		}
		taken = take(ctl, pid, start);
		found = taken < 0 ? found : taken;
	}
	agent_guard_leave(t, &guard);
	return found;
}

void agent_exec_begins(struct shim_thread *t, u32 nr)
{
	struct proc_stat st;

	if (agent_sys_exit_wanted(nr) && proc_stat(t->tgid, &st))
		notes(t, t->tgid, (long)nr, st.start);
}

void agent_exec_failed(struct shim_thread *t)
{
	struct proc_stat st;

	if (proc_stat(t->tgid, &st))
		notes(t, t->tgid, -1, st.start);
}

void agent_exec_done(void)
{
	struct shim_thread *t;
	struct proc_stat st;
	long nr;

	if (!agent_load(&agent_private.ready) || !agent_sys_attached())
		return;
	t = agent_thread();
	if (!t || !proc_stat(t->tgid, &st))
		return;
	nr = notes(t, t->tgid, -1, st.start);
	if (nr >= 0)
		agent_sys_tell_exit(t, (u32)nr, 0);
}
