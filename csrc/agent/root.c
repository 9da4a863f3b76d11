/* The root object: tables, and the lock under which they are changed. */
#include "proc.h"

__attribute__((visibility("protected"))) struct shim_agent shim_agent_root = {
	.magic = SHIM_AGENT_MAGIC,
	.version = SHIM_AGENT_VERSION,
	.masks = 1,
};
struct agent_private agent_private;

/* Called under the lock, so nobody else maps them at the same time. */
long agent_tables(void)
{
	struct shim_agent *root = &shim_agent_root;
	u64 threads_size = AGENT_THREADS * sizeof(struct shim_thread);

	if (agent_load(&agent_private.ready))
		return 0;
	if (!root->sites)
		root->sites = agent_map_anon(SHIM_MAX_SITES * sizeof(struct shim_site));
	if (!root->links)
		root->links = agent_map_anon(SHIM_MAX_SITE_LINKS * sizeof(struct shim_site_link));
	if (!root->threads) {
		u64 at = agent_map_anon(threads_size);

		/* a child must never take its parent's thread numbers for its own */
		if (at && !agent_wipe_forks(at, threads_size))
			root->threads = at;
		else if (at)
			agent_disown(at), shim_sys2(NR_MUNMAP, at, threads_size);
	}
	if (!root->sites || !root->links || !root->threads || agent_ret_init() || agent_own_init() ||
	    agent_stays_init())
		return -E_NOMEM;
	root->pid = (u32)shim_sys0(NR_GETPID);
	agent_threads()[0].fs_base = 1; /* the mark of agent_check_fork */
	agent_threads()[0].tgid = agent_threads()[0].tid = root->pid;
	shim_clock_init(agent_private.sysinfo_ehdr);
	shim_host_clip = agent_host_clip;
	shim_own_tid = agent_known_tid;
	shim_owner_tid = agent_owner_tid;
	shim_stays = agent_stays;
	shim_quick = &agent_quick;
	agent_store(&agent_private.ready, 1);
	return 0;
}

/* A process of its own in this memory. */
static int is_vfork_child(void)
{
	return agent_load(&agent_private.ready) && agent_threads()[0].tid != (u32)shim_sys0(NR_GETPID);
}

enum { TID_BITS = 24, TID_MASK = (1 << TID_BITS) - 1, NR_KILL = 62 };

/* Who, and since when (clock ticks) it is there. */
static u64 since_of(u32 tid, u64 start)
{
	return start << TID_BITS | (tid & TID_MASK);
}

/* Threads die with their process; a child of vfork does not take its parent along. Its number may be
 * another's by now, so that its start is looked at. */
static int is_dead(u32 holder)
{
	u64 since = agent_load(&agent_private.lock_since);
	struct proc_stat st;

	if (!holder || !shim_sys3(NR_TGKILL, shim_sys0(NR_GETPID), holder, 0))
		return 0;
	if (shim_names.foreign || !proc_stat(holder, &st))
		return shim_sys2(NR_KILL, holder, 0) == -E_SRCH;
	return st.state == 'Z' || st.state == 'X' ||
	       (since_of(holder, 0) == (since & TID_MASK) && since != since_of(holder, st.start));
}

/* A keeper found the lock taken, and comes again soon: threads that tell of something one after the
 * other would never let it in. start: when the caller began to wait, at most two seconds of which it
 * stands back; 0: now. */
static int keeper_waits(u32 *start)
{
	enum { CLOCK_MONOTONIC_ = 1, ASKED_MS = 1000, BACK_MS = 2000 };
	u32 until = agent_load(&shim_agent_root.wanted), ms;
	u64 now[2];

	if (!until || shim_sys2(NR_CLOCK_GETTIME, CLOCK_MONOTONIC_, now))
		return 0;
	ms = (u32)(now[0] * 1000 + now[1] / 1000000);
	if (!*start)
		*start = ms | 1;
	return until - ms - 1 < ASKED_MS && ms - *start < BACK_MS;
}

enum { YIELDS = 100 };

void agent_pause(u32 tries)
{
	u64 nap[2] = { 0, 50000 };

	if (tries < YIELDS)
		shim_sys0(NR_SCHED_YIELD);
	else
		shim_sys2(NR_NANOSLEEP, nap, 0);
}

long agent_lock(u32 patience)
{
	enum { LOOK = 64 };
	u32 tid = (u32)shim_sys0(NR_GETTID), start = 0;
	struct proc_stat st;

	for (u32 i = 0; i <= patience; i++) {
		u32 holder = 0;

		while (patience && keeper_waits(&start))
			shim_sys0(NR_SCHED_YIELD);
		if (i % LOOK == 1 || (i && i == patience) || !patience) {
			holder = agent_load(&shim_agent_root.lock);
			holder = is_dead(holder) ? holder : 0;
		}
		if (__atomic_compare_exchange_n(&shim_agent_root.lock, &holder, tid, 0,
						__ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
			agent_store(&agent_private.lock_since,
				    is_vfork_child() && !shim_names.foreign && proc_stat(tid, &st)
					    ? since_of(tid, st.start)
					    : 0ull);
			return 0;
		}
		agent_pause(i);
	}
	return -E_BUSY;
}

void agent_unlock(void)
{
	agent_store(&shim_agent_root.lock, 0u);
}
