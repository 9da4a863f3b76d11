/* The root object: tables, and the lock under which they are changed. */
#include "state.h"

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

long agent_lock(u32 patience)
{
	u32 tid = (u32)shim_sys0(NR_GETTID);

	for (u32 i = 0; i <= patience; i++) {
		u32 free = 0;

		if (__atomic_compare_exchange_n(&shim_agent_root.lock, &free, tid, 0, __ATOMIC_ACQUIRE,
						__ATOMIC_RELAXED))
			return 0;
		shim_sys0(NR_SCHED_YIELD);
	}
	return -E_BUSY;
}

void agent_unlock(void)
{
	agent_store(&shim_agent_root.lock, 0u);
}
