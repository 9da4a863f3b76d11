/*
 * Taking one session's links out of a process's site table, and restoring the windows that
 * have no link left, all under one stop.
 */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "keeper.h"

static struct shim_agent root;
static struct shim_site sites[SHIM_MAX_SITES];
static u8 hosts[SHIM_MAX_SITES];
static u32 by_window[SHIM_MAX_SITES]; /* indices of sites */
static u32 quick_went, masks_went; /* links of SHIM_QUICK_LINK and SHIM_MASKS_LINK, of the latter */
static struct shim_site_link links[SHIM_MAX_SITE_LINKS];

static int load_table(struct kp_target *t, u64 addr)
{
	int err = kp_read(t, addr, &root, sizeof(root));

	if (err)
		return err;
	if (root.magic != SHIM_AGENT_MAGIC || root.version != SHIM_AGENT_VERSION)
		return -EPROTO;
	if (root.nr_sites > SHIM_MAX_SITES || root.nr_links > SHIM_MAX_SITE_LINKS ||
	    root.nr_sessions > SHIM_MAX_SESSIONS)
		return -EPROTO;
	if (root.nr_sites)
		err = kp_read(t, root.sites, sites, root.nr_sites * sizeof(sites[0]));
	if (!err && root.nr_links)
		err = kp_read(t, root.links, links, root.nr_links * sizeof(links[0]));
	return err;
}

int kp_locked(const struct kp_target *t, u32 holder)
{
	int i;

	for (i = 0; holder && i < t->nthreads; i++)
		if (t->threads[i].state != KP_GONE && kp_own_number(t, t->threads[i].tid) == holder)
			return 1;
	return 0;
}

/* Records that have changed here and not yet there: nobody else changes them while all threads stand
 * still and the lock is free. */
struct changed {
	u32 lo, hi;
};

static void note_change(struct changed *c, u32 index)
{
	if (c->lo == c->hi)
		c->lo = c->hi = index;
	c->lo = index < c->lo ? index : c->lo;
	c->hi = index >= c->hi ? index + 1 : c->hi;
}

static int put_sites(struct kp_target *t, const struct changed *c)
{
	return c->lo == c->hi ? 0
			      : kp_write(t, root.sites + c->lo * sizeof(sites[0]), &sites[c->lo],
					 (c->hi - c->lo) * sizeof(sites[0]));
}

static int put_links(struct kp_target *t, const struct changed *c)
{
	return c->lo == c->hi ? 0
			      : kp_write(t, root.links + c->lo * sizeof(links[0]), &links[c->lo],
					 (c->hi - c->lo) * sizeof(links[0]));
}

static int wanted(const struct shim_site_link *l, const struct shim_kp_detach *req)
{
	if (!req->session_id)
		return req->link_id == SHIM_MASKS_LINK && l->link_id == req->link_id;
	if (l->session >= SHIM_MAX_SESSIONS || root.sessions[l->session].id != req->session_id)
		return 0;
	return !req->link_id || l->link_id == req->link_id;
}

/* No other link of the list has the reference counter of this one, which is taken out of it. */
static int last_with_counter(u32 first, struct shim_site_link *l)
{
	u64 counter = l->counter & SHIM_COUNTER_ADDR;
	u32 seen;

	l->counter = 0;
	for (seen = 0; first && first <= root.nr_links && seen < root.nr_links; seen++) {
		if (counter && links[first - 1].counter == counter)
			return 0;
		first = links[first - 1].next;
	}
	return 1;
}

/* The site, or its host: that whose window lies in the probed module. */
static const struct shim_site *in_module(u32 index)
{
	u32 host = sites[index].host;

	if (!host || host > root.nr_sites || sites[host - 1].flags & SHIM_SITE_HOLE)
		return &sites[index];
	return &sites[host - 1];
}

/* The site's links end; they stay in its list. */
static int silence_site(struct kp_target *t, u32 index, const struct shim_kp_detach *req,
			struct changed *of_links)
{
	u32 cur = sites[index].first, all = cur, seen;
	int err = 0;

	for (seen = 0; cur && cur <= root.nr_links && seen < root.nr_links && !err; seen++) {
		struct shim_site_link *l = &links[cur - 1];
		const struct shim_site_link before = *l;
		u64 at = root.links + (cur - 1) * sizeof(links[0]);

		if (wanted(l, req)) {
			err = kp_counter_down(t, in_module(index), at, &before,
					      last_with_counter(all, l));
			if (!err) {
				l->live = 0;
				masks_went += l->link_id == SHIM_MASKS_LINK;
				quick_went |= (l->link_id & SHIM_QUICK_LINKS) != 0;
				note_change(of_links, cur - 1);
			}
		}
		cur = l->next;
	}
	return err;
}

/* A thread that stands in the middle of the list still finds its way by 'next'. */
static void unlink_site(u32 index, const struct shim_kp_detach *req, struct changed *of_sites,
			struct changed *of_links)
{
	u32 cur = sites[index].first, kept = 0, seen; /* kept: the last that stays, + 1 */

	for (seen = 0; cur && cur <= root.nr_links && seen < root.nr_links; seen++) {
		struct shim_site_link *l = &links[cur - 1];

		if (!wanted(l, req)) {
			kept = cur;
			cur = l->next;
			continue;
		}
		cur = l->next;
		if (kept) {
			links[kept - 1].next = cur;
			note_change(of_links, kept - 1);
		} else {
			sites[index].first = cur;
			note_change(of_sites, index);
		}
	}
}

/* First no link is live any more, then none is in a list. */
static int unlink_all(struct kp_target *t, const struct shim_kp_detach *req)
{
	struct changed of_sites = { 0, 0 }, of_links = { 0, 0 }, silent = { 0, 0 };
	int err = 0;

	quick_went = masks_went = 0;
	for (u32 i = 0; i < root.nr_sites && !err; i++)
		if (sites[i].addr)
			err = silence_site(t, i, req, &silent);
	if (!err)
		err = put_links(t, &silent);
	if (err)
		return err;
	for (u32 i = 0; i < root.nr_sites; i++)
		if (sites[i].addr)
			unlink_site(i, req, &of_sites, &of_links);
	err = put_links(t, &of_links);
	if (!err && quick_went) {
		root.masks += root.masks + 1 ? 1 : 2;
		root.masked -= masks_went;
		err = kp_write(t, req->root + offsetof(struct shim_agent, masks), &root.masks, 8);
	}
	return err ? err : put_sites(t, &of_sites);
}

/* A thread between the two jumps of a short one goes on where the second leads. -EBUSY: the place
 * is in a signal frame. */
static int leave_hole(struct kp_target *t, const struct shim_site *s)
{
	u64 at = s->func ? s->func : s->window;
	struct shim_kp_window w = { .scan_lo = at, .scan_hi = at + 1 };
	int i, err = kp_threads_regs(t);

	if (!err && kp_scan(t, &w, 1))
		err = -EBUSY;
	for (i = 0; i < t->nthreads && !err; i++) {
		struct kp_thread *th = &t->threads[i];

		if (th->state != KP_STOPPED || th->regs.rip != at)
			continue;
		th->regs.rip = s->tramp;
		err = kp_set_regs(th, &th->regs);
	}
	return err;
}

/* Which sites another one needs that has links, or is still patched. */
static void mark_hosts(void)
{
	u32 i;

	memset(hosts, 0, sizeof(hosts));
	for (i = 0; i < root.nr_sites; i++) {
		const struct shim_site *s = &sites[i];

		if (s->addr && s->host && s->host <= SHIM_MAX_SITES && (s->first || s->patched))
			hosts[s->host - 1] = 1;
	}
}

/* 1 restored, 0 left alone. Bytes that are not our jump belong to somebody else. */
static int restore_site(struct kp_target *t, u32 index, struct changed *flags)
{
	struct shim_site *s = &sites[index];
	u8 now[SHIM_WINDOW_MAX];
	int err, ours;

	if (!s->addr || s->first || !s->patched || !s->window_len || s->window_len > SHIM_WINDOW_MAX)
		return 0;
	if (hosts[index])
		return 0;
	err = kp_pages_read(t, s->window, now, s->window_len);
	if (err)
		return err == -EFAULT ? 0 : err; /* its module is gone */
	ours = !memcmp(now, s->patch, s->window_len);
	if (!ours && memcmp(now, s->orig, s->window_len))
		return 0;
	if (ours && s->flags & SHIM_SITE_HOLE)
		err = leave_hole(t, s);
	if (ours && !err)
		err = kp_pages_write(t, s->window, s->orig, s->window_len);
	if (err)
		return err;
	s->patched = 0;
	note_change(flags, index);
	return ours;
}

static int order(const void *a, const void *b)
{
	u64 one = sites[*(const u32 *)a].window, other = sites[*(const u32 *)b].window;

	return one < other ? -1 : one > other;
}

/* Windows of sites that nobody needs; then their hosts, if nobody needs those any more, and theirs. How
 * many. A flag follows the bytes: it is harmless with the original ones in place. */
static int restore_all(struct kp_target *t)
{
	int err = 0, put, restored = 0, depth;

	for (u32 i = 0; i < root.nr_sites; i++)
		by_window[i] = i;
	qsort(by_window, root.nr_sites, sizeof(by_window[0]), order);
	for (depth = 0; depth < 3 && !err; depth++) {
		struct changed flags = { 0, 0 };

		mark_hosts();
		kp_pages_begin();
		for (u32 i = 0; i < root.nr_sites && !err; i++) {
			int ret = restore_site(t, by_window[i], &flags);

			err = ret < 0 ? ret : 0;
			restored += ret > 0 ? ret : 0;
		}
		put = kp_pages_end(t);
		err = err ? err : put;
		if (!err)
			err = put_sites(t, &flags);
	}
	return err ? err : restored;
}

static int detach_stopped(struct kp_target *t, const struct shim_kp_detach *req)
{
	int err = load_table(t, req->root), restored, calls;

	if (err)
		return err;
	if (kp_locked(t, root.lock))
		return kp_want_lock(t, req->root);
	err = unlink_all(t, req);
	if (err)
		return err;
	restored = restore_all(t);
	if (restored < 0)
		return restored;
	calls = kp_restore_calls(t, req->root, &root, sites);
	return calls < 0 ? calls : restored + calls;
}

int kp_detach(struct kp_target *t, pid_t pid, const struct shim_kp_detach *req)
{
	long deadline = kp_now_ms() + (req->timeout_ms > 60000 ? 60000 : req->timeout_ms);
	const struct timespec pause = { 0, 1000000 };
	int ret;

	if (t->pid)
		return -EBUSY;
	for (;;) {
		ret = kp_stop(t, pid);
		if (ret >= 0) {
			ret = detach_stopped(t, req);
			kp_release(t);
		}
		if (ret != -EBUSY || kp_now_ms() >= deadline)
			return ret;
		nanosleep(&pause, NULL); /* lets the holder of the lock, or the other tracer, end */
	}
}
