/*
 * Windows of system calls, written by the process itself: a page at a time, since there are hundreds in
 * libc. One whose bytes are not those expected is somebody else's and is left alone. What may be
 * written when is patch.c's rule: alone, or before anybody runs the module; on the way back always,
 * since what is executed of a patched window is one jump, but beside other threads each page is then
 * put in the place of the old one whole.
 */
#include "stays.h"
#include "sys.h"
#include "trap.h"

enum { SHORT = 2, JUMP = 5, SLACK = 16 };

u64 agent_mapped_lo, agent_mapped_hi;

static u8 page[AGENT_PAGE + SLACK];

static const struct shim_call_window *windows(const struct shim_calls *head)
{
	return (const void *)((u64)head + head->table);
}

static u64 place(const struct shim_calls *head, u32 index)
{
	return (u64)head + (u64)(s64)windows(head)[index].at;
}

/* These bytes, or those, are there. */
static int stands(u64 at, const u8 *one, const u8 *other, u32 len)
{
	u8 now[sizeof(((struct shim_call_window *)0)->patch)];

	return len <= sizeof(now) && !shim_copy_from(now, at, len) &&
	       (!agent_differs(now, one, len) || !agent_differs(now, other, len));
}

/* A short jump's fill is ours, or going to be; a long one needs none. */
static int leads(const struct shim_calls *head, u32 index)
{
	const struct shim_call_window *w = &windows(head)[index];
	u64 to = place(head, index) + SHORT + (u64)(s64)(s8)w->patch[1];

	if (w->len != SHORT)
		return 1;
	for (u32 i = 0; i < head->nr; i++)
		if (place(head, i) == to)
			return stands(to, windows(head)[i].orig, windows(head)[i].patch,
				      windows(head)[i].len);
	return 0;
}

enum { NEAR = 256 };
static u16 near_sites[NEAR]; /* or, if there are more, all */
static u32 nr_near;

/* A site has these bytes, or its jump ends with them. */
static int has(const struct shim_site *site, u64 at, u64 len)
{
	u32 claim = site->flags & SHIM_SITE_PUN ? JUMP : site->window_len;

	return site->patched && at < site->window + claim && site->window < at + len;
}

/* Those that `claimed` is asked about: of the page at lo. */
static void find_near(u64 lo)
{
	nr_near = 0;
	for (u32 i = 0; i < shim_agent_root.nr_sites; i++)
		if (has(&agent_sites()[i], lo, AGENT_PAGE + SHIM_CALL_WHOLE) && nr_near++ < NEAR)
			near_sites[nr_near - 1] = (u16)i;
}

static int claimed(u64 at, const struct shim_call_window *w)
{
	u32 nr = nr_near <= NEAR ? nr_near : shim_agent_root.nr_sites;

	for (u32 i = 0; i < nr; i++)
		if (has(&agent_sites()[nr_near <= NEAR ? near_sites[i] : i], at,
			w->flags & SHIM_CALL_WHOLE))
			return 1;
	return 0;
}

/* Changes what is in `page`, which begins at lo and has *n bytes, by windows from `first` on; *next: the
 * first one that does not lie in it whole; *n: how far it changed. How many it changed. */
static u32 change(const struct shim_calls *head, u32 on, u64 lo, u64 *n, u32 first, u32 *next)
{
	u64 end = 0;
	u32 done = 0, i;

	for (i = first; i < head->nr; i++) {
		const struct shim_call_window *w = &windows(head)[i];
		u64 off = place(head, i) - lo;

		if (off >= AGENT_PAGE || off + w->len > *n || w->len > sizeof(w->orig))
			break;
		if (agent_differs(page + off, on ? w->orig : w->patch, w->len) ||
		    (on && (!leads(head, i) || claimed(lo + off, w))))
			continue;
		agent_copy(page + off, on ? w->patch : w->orig, w->len);
		end = off + w->len > end ? off + w->len : end;
		done++;
	}
	*next = i;
	*n = end;
	return done;
}

/* All windows of a region: how many were written, or a negative errno. */
static long write_all(const struct shim_calls *head, u32 on, u32 whole, long mem)
{
	u32 done = 0, next;

	if (head->magic != SHIM_CALLS_MAGIC)
		return -E_INVAL;
	for (u32 i = 0; i<head->nr; i = next> i ? next : i + 1) {
		u64 lo = place(head, i) & ~(AGENT_PAGE - 1ull);
		long got = shim_sys4(NR_PREAD, mem, page, sizeof(page), lo), ret;
		u64 n = got < 0 ? 0 : (u64)got; /* 0: not mapped any more */
		u32 changed;

		if (on)
			find_near(lo);
		changed = change(head, on, lo, &n, i, &next);
		if (!changed)
			continue;
		ret = whole ? agent_replace(lo, page, n, PROT_RX) : agent_poke(mem, lo, page, n);
		if (ret < 0)
			return ret;
		done += changed;
	}
	return done;
}

static struct shim_call_region *region(u64 at)
{
	struct shim_call_region *list = shim_agent_root.calls;

	for (u32 i = 0; i < SHIM_MAX_CALLS; i++)
		if (list[i].at == at)
			return &list[i];
	return NULL;
}

/* Nobody runs it yet: all of it became executable just now. */
static int fresh(const struct shim_calls *head)
{
	u64 lo = agent_mapped_lo, size = agent_mapped_hi - lo;

	for (u32 i = 0; i < head->nr; i++)
		if (place(head, i) - lo >= size)
			return 0;
	return 1;
}

/* One window's bytes as they were. */
static long undo(u64 at, const struct shim_call_window *w, u32 whole, long mem)
{
	u64 lo = at & ~(AGENT_PAGE - 1ull), off = at - lo;
	long ret = shim_sys4(NR_PREAD, mem, page, sizeof(page), lo);

	if (ret < (long)(off + w->len))
		return ret < 0 ? ret : -E_FAULT;
	agent_copy(page + off, w->orig, w->len);
	return whole ? agent_replace(lo, page, off + w->len, PROT_RX)
		     : agent_poke(mem, at, page + off, w->len);
}

long agent_calls_lift(u64 at, u32 len, u32 whole, long mem)
{
	for (u32 r = 0; r < SHIM_MAX_CALLS; r++) {
		const struct shim_calls *head = (const void *)shim_agent_root.calls[r].at;

		if (!head || !shim_agent_root.calls[r].patched)
			continue;
		for (u32 i = 0; i < head->nr; i++) {
			const struct shim_call_window *w = &windows(head)[i];
			u64 there = place(head, i), end = there + (w->flags & SHIM_CALL_WHOLE);
			long ret;

			if (there >= at + len || at >= there + w->len ||
			    !stands(there, w->patch, w->patch, w->len))
				continue;
			if (w->flags & SHIM_CALL_ISLAND || (at < end && end < at + len) ||
			    (w->flags & SHIM_CALL_NEEDED && agent_trap_used()))
				return -E_STALE;
			ret = undo(there, w, whole, mem);
			if (ret)
				return ret;
		}
	}
	return 0;
}

static long restore_all(u32 reason, long mem)
{
	u32 whole = agent_nthreads() != 1 || reason == SHIM_SYNC_MAILBOX;
	long done = 0;

	if (reason == SHIM_SYNC_KEEPER || agent_sys_attached())
		return -E_BUSY;
	for (u32 i = 0; i < SHIM_MAX_CALLS; i++) {
		struct shim_call_region *r = &shim_agent_root.calls[i];
		long ret;

		if (!r->at || !r->patched)
			continue;
		ret = write_all((const struct shim_calls *)r->at, 0, whole, mem);
		if (ret < 0)
			return ret;
		agent_store(&r->patched, 0u);
		done += ret;
	}
	return done;
}

long agent_calls(const struct shim_agent_calls *msg, u32 reason, long mem)
{
	struct shim_call_region *r = region(msg->at);
	long ret = 0;

	if (msg->what == SHIM_CALLS_RESTORE)
		return restore_all(reason, mem);
	if (!msg->at || !msg->what || msg->what > SHIM_CALLS_FORGET)
		return -E_INVAL;
	if (msg->what == SHIM_CALLS_FORGET) {
		if (r)
			r->at = 0;
		return 0;
	}
	if (!r)
		r = region(0);
	if (!r)
		return -E_NOSPC;
	if (agent_sys_init())
		return -E_NOMEM;
	if (msg->what == SHIM_CALLS_WRITE && (agent_nthreads() != 1 || reason != SHIM_SYNC_START))
		return -E_BUSY;
	if (msg->what == SHIM_CALLS_FRESH &&
	    (reason != SHIM_SYNC_MAP || !fresh((const struct shim_calls *)msg->at)))
		return -E_BUSY;
	if (shim_agent_root.masked) /* programs run behind places where masks change */
		agent_quick_unseen();
	r->at = msg->at;
	agent_store(&r->patched, 1u);
	if (msg->what != SHIM_CALLS_NOTE)
		ret = write_all((const struct shim_calls *)msg->at, 1, 0, mem);
	return ret;
}
