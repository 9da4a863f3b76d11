/* A conversation as a whole: lock, signals, socket. */
#include "state.h"
#include "keys.h"
#include "trapcalls.h"
#include "wire.h"

enum { LOCK_PATIENCE = 20000, FUTEX_WAIT_ = 0, FUTEX_WAKE_ = 1 };

u32 agent_sync_leaver;
static u32 visited; /* how often the keeper has come */

/* It has come, and has to come again: a thread stood where it was to write. */
static int unwritten(void)
{
	for (u32 i = 0; i < agent_load(&shim_agent_root.nr_sites); i++) {
		const struct shim_site *site = &agent_sites()[i];

		if (site->window_len && agent_load(&site->first) && !agent_load(&site->patched))
			return 1;
	}
	return 0;
}

/* Until it has come once more, and written; two seconds, as long as it tries. Signals are as the application
 * has them: of int3, none may have SIGTRAP blocked. */
static void await_keeper(u32 seen)
{
	static const u64 part[2] = { 0, 10000000 };

	for (u32 i = 0; i < 200 && !agent_muted(); i++) {
		u32 now = agent_load(&visited);

		if (now != seen && !unwritten())
			return;
		shim_sys4(NR_FUTEX, &visited, FUTEX_WAIT_, now, part);
	}
}

long agent_sync(const char *path, u32 reason)
{
	u64 all = ~0ull, before = 0;
	u32 leaving = reason == SHIM_SYNC_EJECT || reason == SHIM_SYNC_EMPTY;
	u32 stopped = leaving ||
		      reason == SHIM_SYNC_KEEPER; /* all others: there is nothing to wait for */
	u32 was_open, seen = 0, waits = 0, pair = !agent_differs(path, SHIM_PAIR, sizeof(SHIM_PAIR));
	long ret, sock;

	if (agent_muted())
		return -E_ACCES;
	was_open = shim_key_open();
	shim_sys4(NR_SIGPROCMASK, SIG_SETMASK_, &all, &before, 8);
	ret = agent_check_fork(stopped);
	if (!ret)
		ret = agent_lock(stopped ? 0 : LOCK_PATIENCE);
	if (ret)
		goto out;
	agent_sync_mask = before;
	if (!leaving)
		ret = agent_tables();
	if (leaving) {
		ret = reason == SHIM_SYNC_EJECT ? agent_eject() : agent_empty();
	} else if (!ret && !path[0]) {
		ret = agent_sweep();
	} else if (!ret) {
		sock = pair ? agent_pair() : agent_connect(path, reason == SHIM_SYNC_KEEPER);
		ret = sock < 0 ? sock : agent_serve(sock, reason);
		if (sock >= 0 && !pair)
			shim_sys1(NR_CLOSE, sock);
		waits = ret > 0 && (reason == SHIM_SYNC_START || reason == SHIM_SYNC_DLOPEN);
	}
	if (reason == SHIM_SYNC_KEEPER && !ret) {
		agent_store(&visited, visited + 1);
		shim_sys3(NR_FUTEX, &visited, FUTEX_WAKE_, 0x7fffffff);
	}
	ret = ret > 0 && !leaving ? 0 : ret;
	seen = visited;
	if (waits && !(before & TRAP_BIT))
		agent_store(&agent_sync_leaver, (u32)shim_sys0(NR_GETTID));
	agent_unlock();
out:
	shim_key_back(was_open);
	shim_sys4(NR_SIGPROCMASK, SIG_SETMASK_, &before, 0, 8);
	if (waits) {
		agent_store(&agent_sync_leaver, 0u);
		await_keeper(seen);
	}
	return ret;
}
