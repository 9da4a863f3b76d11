/* The root object: tables, and the lock under which they are changed. */
#include "proc.h"

__attribute__((visibility("protected"))) struct shim_agent shim_agent_root = {
	.magic = SHIM_AGENT_MAGIC,
	.version = SHIM_AGENT_VERSION,
};
struct agent_private agent_private;
u32 agent_vforks;

/* Called under the lock, so nobody else maps them at the same time. */
long agent_tables(void)
{
	struct shim_agent *root = &shim_agent_root;
	u64 threads_size = AGENT_THREADS * sizeof(struct shim_thread);
	enum { WIPEONFORK = 18 };

	if (agent_load(&agent_private.ready))
		return 0;
	if (!root->sites)
		root->sites = agent_map_anon(SHIM_MAX_SITES * sizeof(struct shim_site));
	if (!root->links)
		root->links = agent_map_anon(SHIM_MAX_SITE_LINKS * sizeof(struct shim_site_link));
	if (!root->threads) {
		u64 at = agent_map_anon(threads_size);

		/* a child must never take its parent's thread numbers for its own */
		if (at && shim_sys3(NR_MADVISE, at, threads_size, WIPEONFORK) == 0)
			root->threads = at;
		else if (at)
			agent_disown(at), shim_sys2(NR_MUNMAP, at, threads_size);
	}
	if (!root->sites || !root->links || !root->threads || agent_ret_init() || agent_own_init())
		return -E_NOMEM;
	root->pid = (u32)shim_sys0(NR_GETPID);
	agent_threads()[0].fs_base = 1; /* the mark of agent_check_fork */
	agent_threads()[0].tgid = agent_threads()[0].tid = root->pid;
	shim_clock_init(agent_private.sysinfo_ehdr);
	agent_barrier_init();
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
	if (!proc_stat(holder, &st))
		return shim_sys2(NR_KILL, holder, 0) == -E_SRCH;
	return st.state == 'Z' || st.state == 'X' ||
	       (since_of(holder, 0) == (since & TID_MASK) && since != since_of(holder, st.start));
}

long agent_lock(u32 patience)
{
	enum { LOOK = 1024 };
	u32 tid = (u32)shim_sys0(NR_GETTID);
	struct proc_stat st;

	for (u32 i = 0; i <= patience; i++) {
		u32 holder = 0;

		if (i % LOOK == 1 || (i && i == patience) || !patience) {
			holder = agent_load(&shim_agent_root.lock);
			holder = is_dead(holder) ? holder : 0;
		}
		if (__atomic_compare_exchange_n(&shim_agent_root.lock, &holder, tid, 0,
						__ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
			agent_store(&agent_private.lock_since, is_vfork_child() && proc_stat(tid, &st)
								       ? since_of(tid, st.start)
								       : 0ull);
			return 0;
		}
		shim_sys0(NR_SCHED_YIELD);
	}
	return -E_BUSY;
}

void agent_unlock(void)
{
	agent_store(&shim_agent_root.lock, 0u);
}
