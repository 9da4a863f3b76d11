/*
 * What the agent has mapped in its process, and giving it back: what sessions of dead backends
 * left, and, before the keeper unmaps the agent itself, everything. Under root.lock.
 */
#include "state.h"
#include "both.h"
#include "clock.h"
#include "keys.h"
#include "ret.h"
#include "stays.h"
#include "sys.h"
#include "trap.h"

long agent_own(u64 addr, u64 len, u32 session, u32 shared)
{
	for (u32 i = 0; i < SHIM_MAX_OWNED; i++) {
		struct shim_owned *o = &shim_agent_root.owned[i];

		if (o->len)
			continue;
		o->addr = addr;
		o->session = session;
		o->shared = shared;
		agent_store(&o->len, len);
		return 0;
	}
	return -E_NOSPC;
}

void agent_disown(u64 addr)
{
	for (u32 i = 0; i < SHIM_MAX_OWNED; i++) {
		struct shim_owned *o = &shim_agent_root.owned[i];

		if (o->len && o->addr == addr)
			agent_store(&o->len, 0ull);
	}
}

u64 agent_map_anon(u64 size)
{
	long at = shim_sys6(NR_MMAP, 0, (long)size, PROT_RW, MAP_PRIVATE_ | MAP_ANON_, -1, 0);

	if (at < 0 && at > -4096)
		return 0;
	if (agent_own((u64)at, size, SHIM_NO_SESSION, 0)) {
		shim_sys2(NR_MUNMAP, at, size);
		return 0;
	}
	return (u64)at;
}

/* Beside stopped threads: every session whose backend is dead, and what it mapped. -EBUSY: a link
 * is left, or a run is in progress. */
long agent_sweep(void)
{
	struct shim_agent *root = &shim_agent_root;
	long ret = 0;

	for (u32 at = 0; at < SHIM_MAX_SESSIONS; at++) {
		struct shim_ctl *ctl = (struct shim_ctl *)root->sessions[at].ctl;
		long err;

		if (!root->sessions[at].id || !ctl ||
		    !(agent_load(&ctl->backend_lock[0]) & SHIM_BACKEND_DEAD))
			continue;
		err = agent_session_end(at, 0);
		if (err)
			ret = err;
		for (u32 i = 0; !err && i < SHIM_MAX_OWNED; i++) {
			struct shim_owned *o = &root->owned[i];

			if (!o->len || !o->shared || o->session != at)
				continue;
			shim_sys2(NR_MUNMAP, o->addr, o->len);
			o->len = 0;
		}
	}
	return ret;
}

/* Beside stopped threads. Nothing leads to the agent any more, or -EBUSY: a session is left, a window
 * is patched, or a run is in progress. A preloaded library stays: -EOPNOTSUPP. */
long agent_eject(void)
{
	struct shim_agent *root = &shim_agent_root;

	if (!root->image)
		return -E_OPNOTSUPP;
	if (!agent_load(&agent_private.ready))
		return 0;
	agent_sweep();
	for (u32 i = 0; i < SHIM_MAX_SESSIONS; i++)
		if (root->sessions[i].id)
			return -E_BUSY;
	for (u32 i = 0; i < root->nr_sites; i++)
		if (agent_sites()[i].patched)
			return -E_BUSY;
	for (u32 i = 0; i < SHIM_MAX_CALLS; i++)
		if (root->calls[i].patched)
			return -E_BUSY;
	if (agent_quiesce(0))
		return -E_BUSY;
	if (agent_quick_end())
		return -E_BUSY;
	agent_ret_withdraw();
	agent_clock_end();
	agent_trap_end();
	return 0;
}

/* After that, and nobody is inside of what is mapped: it goes, and the agent is as it was when it
 * came. */
long agent_empty(void)
{
	struct shim_agent *root = &shim_agent_root;
	long err = agent_eject();

	if (err)
		return err;
	agent_store(&agent_private.ready, 0u);
	root->nr_sites = root->nr_links = root->nr_sessions = root->nr_runnables = 0;
	root->sites = root->links = root->threads = 0;
	agent_zero(root->event_site, sizeof(root->event_site));
	agent_zero(root->runnables, sizeof(root->runnables));
	agent_zero(root->calls, sizeof(root->calls));
	agent_ret_end();
	agent_own_end();
	agent_stays_end();
	agent_both_end();
	agent_sys_end();
	for (u32 i = 0; i < SHIM_MAX_OWNED; i++) {
		struct shim_owned *o = &root->owned[i];

		if (o->len)
			shim_sys2(NR_MUNMAP, o->addr, o->len);
		o->len = 0;
	}
	agent_keys_end();
	return 0;
}
