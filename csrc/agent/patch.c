/*
 * A window written by the process itself.
 *
 * Alone, it is one write through /proc/self/mem, which needs no writable code page. Beside other
 * threads, the window must be one instruction (nobody can stand inside it), and its page is made
 * anew aside, then moved over the old one by one mremap: each thread sees the old page or the new
 * one, and never a page that is writable and executable. The page is anonymous from then on.
 */
#include "proc.h"
#include "sys.h"
#include "table.h"

enum { MREMAP_MAYMOVE = 1, MREMAP_FIXED = 2 };
enum { MEMBARRIER_SYNC_CORE = 1 << 5, MEMBARRIER_REGISTER_SYNC_CORE = 1 << 6 };

long agent_replace(u64 addr, const void *bytes, u64 len, u32 prot)
{
	u64 lo = addr & ~(AGENT_PAGE - 1ull);
	u64 size = ((addr + len + AGENT_PAGE - 1) & ~(AGENT_PAGE - 1ull)) - lo;
	long aside = shim_sys6(NR_MMAP, 0, (long)size, PROT_RW, MAP_PRIVATE_ | MAP_ANON_, -1, 0);
	long ret;

	if (aside < 0 && aside > -4096)
		return aside;
	ret = shim_copy_from((void *)aside, lo, size);
	if (!ret) {
		agent_copy((u8 *)aside + (addr - lo), bytes, len);
		ret = shim_sys3(NR_MPROTECT, aside, size, prot);
	}
	if (!ret)
		ret = shim_sys5(NR_MREMAP, aside, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, lo);
	if (ret < 0 && ret > -4096) {
		shim_sys2(NR_MUNMAP, aside, size);
		return ret;
	}
	return 0;
}

/* What may be done in the page of that address, which is not writable. */
static u32 protection(u64 addr)
{
	u32 found = PROT_R;
	struct proc_file file;
	char line[64];

	proc_open_self(&file, "/maps");
	while (proc_line(&file, line, sizeof(line)) >= 0) {
		const char *at = line;
		u64 lo = proc_number(&at, 16), hi = *at ? (at++, proc_number(&at, 16)) : 0;

		if (lo <= addr && addr < hi && at[0] && at[1] && at[2] && at[3] == 'x')
			found = PROT_RX;
	}
	proc_close(&file);
	return found;
}

long agent_poke(long mem, u64 addr, const void *bytes, u64 len)
{
	long ret = shim_sys4(NR_PWRITE, mem, bytes, len, addr);

	if (ret == (long)len)
		return 0;
	if (ret != -E_INVAL && ret != -E_BADF)
		return ret < 0 ? ret : -E_FAULT;
	/* gVisor's cannot be written, or not be opened for it */
	return shim_copy_to(addr, bytes, len) ? agent_replace(addr, bytes, len, protection(addr)) : 0;
}

/* -EBUSY: other threads run, and could stand inside the window. On the way back none can: what is
 * executed of a patched window is one jump. */
static long allowed(const struct shim_site *site, u32 on, u32 reason, u32 threads)
{
	if (reason == SHIM_SYNC_KEEPER)
		return -E_BUSY; /* the keeper writes, and corrects instruction pointers */
	if (threads == 1 && reason != SHIM_SYNC_MAILBOX)
		return 0;
	if (!on) /* a hole: a thread may be between the two jumps */
		return site->flags & SHIM_SITE_HOLE ? -E_BUSY : 0;
	if (site->flags & SHIM_SITE_SINGLE)
		return 0;
	return reason == SHIM_SYNC_DLOPEN && (site->flags & SHIM_SITE_FRESH) ? 0 : -E_BUSY;
}

static long change(struct shim_site *site, u32 on, u32 reason, long mem)
{
	const u8 *expect = on ? site->orig : site->patch;
	const u8 *bytes = on ? site->patch : site->orig;
	u32 threads = agent_nthreads();
	u32 len = site->window_len;
	u8 now[SHIM_WINDOW_MAX];
	long ret;

	if (!len || len > SHIM_WINDOW_MAX)
		return -E_INVAL;
	if (site->patched == on)
		return 0;
	ret = allowed(site, on, reason, threads);
	if (ret)
		return ret;
	if (on)
		ret = agent_calls_lift(site->window, len, threads != 1 || reason == SHIM_SYNC_MAILBOX,
				       mem);
	if (ret)
		return ret;
	ret = shim_sys4(NR_PREAD, mem, now, len, site->window);
	if (ret != (long)len)
		return ret < 0 ? ret : -E_FAULT;
	if (agent_differs(now, expect, len))
		return -E_STALE;
	if (threads == 1 && reason != SHIM_SYNC_MAILBOX) {
		ret = agent_poke(mem, site->window, bytes, len);
	} else {
		ret = agent_replace(site->window, bytes, len, PROT_RX);
		shim_sys2(NR_MEMBARRIER, MEMBARRIER_REGISTER_SYNC_CORE, 0);
		shim_sys2(NR_MEMBARRIER, MEMBARRIER_SYNC_CORE, 0);
	}
	if (ret)
		return ret;
	agent_store(&site->patched, on);
	return 0;
}

/* Hosts that nobody needs any more; one that cannot be restored stays, and its trampoline finds no
 * link. */
static void restore_hosts(u32 host, u32 reason, long mem)
{
	for (u32 depth = 0; host && host <= shim_agent_root.nr_sites && depth < 3; depth++) {
		struct shim_site *site = &agent_sites()[host - 1];

		if (site->first || agent_site_hosts(host - 1) || change(site, 0, reason, mem))
			return;
		host = site->host;
	}
}

long agent_patch(u32 index, u32 on, u32 reason, long mem)
{
	struct shim_site *site = &agent_sites()[index];
	long ret;

	if (on)
		return change(site, 1, reason, mem);
	if (agent_site_hosts(index))
		return -E_BUSY;
	ret = change(site, 0, reason, mem);
	if (!ret)
		restore_hosts(site->host, reason, mem);
	return ret;
}
