/*
 * One more site and link like what the agent has made: by the tables alone, no thread makes a call. What
 * only the agent knows (does the machine write fs with an instruction, is the session under the key) the new
 * records have from those that they are like. Whatever is not simple is left to a conversation.
 *
 * Order: what nobody can reach yet, then the high-water marks, then the window, and last the link lives. A
 * site whose window is not written is harmless, and so is a link that does not live.
 */
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "keeper.h"
#include "shim_ctl.h"

enum { INHERITED = SHIM_SITE_RUN | SHIM_SITE_RET_BARE };
enum { SIMPLE = SHIM_SITE_SINGLE | SHIM_SITE_SKIPS };

static struct shim_agent root;
static struct shim_site sites[SHIM_MAX_SITES];

struct where {
	const struct shim_kp_like *req;
	int found;
};

static int is_file(const struct kp_mapping *m, void *arg)
{
	struct where *w = arg;
	u64 at = w->req->window.addr;

	if (at < m->lo || at >= m->hi)
		return at < m->lo;
	w->found = m->perms[2] == 'x' && m->ino == w->req->ino && m->major == w->req->major &&
		   m->minor == w->req->minor && m->off + (at - m->lo) == w->req->off &&
		   at + w->req->window.len <= m->hi;
	return 1;
}

/* Windows of system calls that are met: a site's may take their place, which is not for us. */
static int any_calls(void)
{
	for (u32 i = 0; i < SHIM_MAX_CALLS; i++)
		if (root.calls[i].at && root.calls[i].patched)
			return 1;
	return 0;
}

/* The root's parts that tell whether it is as the request has it. */
static int load_root(struct kp_target *t, const struct shim_kp_like *req)
{
	enum { BEHIND = offsetof(struct shim_agent, calls) };
	int err = kp_read(t, req->root, &root, offsetof(struct shim_agent, runnables));

	if (!err)
		err = kp_read(t, req->root + BEHIND, (char *)&root + BEHIND, sizeof(root) - BEHIND);
	if (err)
		return err;
	if (root.magic != SHIM_AGENT_MAGIC || root.version != SHIM_AGENT_VERSION)
		return -EPROTO;
	if (kp_locked(t, root.lock))
		return kp_want_lock(t, req->root);
	if (root.muted || any_calls() || root.sites != req->sites || root.nr_sites != req->index ||
	    root.nr_sites >= SHIM_MAX_SITES || root.nr_links >= SHIM_MAX_SITE_LINKS ||
	    req->like >= root.nr_sites)
		return -EOPNOTSUPP;
	return kp_read(t, root.sites, sites, root.nr_sites * sizeof(sites[0]));
}

/* Nobody has a record of these bytes, used or not. */
static int is_free(const struct shim_site *site)
{
	for (u32 i = 0; i < root.nr_sites; i++) {
		u32 claim = sites[i].flags & SHIM_SITE_PUN ? 5 : sites[i].window_len;

		if (sites[i].addr == site->addr ||
		    (claim && sites[i].window < site->window + site->window_len &&
		     site->window < sites[i].window + claim))
			return 0;
	}
	return 1;
}

/* The link of the one that it is to be like, which has no other. */
static int load_link(struct kp_target *t, const struct shim_kp_like *req, struct shim_site_link *link)
{
	u32 first = sites[req->like].first;
	const struct shim_session *session;
	int err;

	if (!first || first > root.nr_links)
		return -EOPNOTSUPP;
	err = kp_read(t, root.links + (first - 1) * sizeof(*link), link, sizeof(*link));
	if (err)
		return err;
	if (!link->live || link->next || link->session >= SHIM_MAX_SESSIONS ||
	    link->link_id != req->like_id || link->prog_id != req->prog_id || link->counter ||
	    link->image != req->image || link->kind != req->kind || req->kind > SHIM_LINK_RET ||
	    link->cpu || link->tid)
		return -EOPNOTSUPP;
	session = &root.sessions[link->session];
	if (session->id != req->session_id || session->ctl != link->ctl ||
	    (root.keyed >> link->session & 1) != !!(link->flags & SHIM_PROG_KEYED))
		return -EOPNOTSUPP;
	return 0;
}

static int check(struct kp_target *t, const struct shim_kp_like *req, struct shim_site_link *link)
{
	const struct shim_site *s = &req->site;
	struct where where = { .req = req };
	int err;

	if (s->first || s->patched || s->host || s->flags & ~(u32)SIMPLE ||
	    s->addr >= SHIM_EVENT_ADDR || !s->window_len || s->window_len > SHIM_WINDOW_MAX ||
	    s->window_len != req->window.len || s->window != req->window.addr || !req->window.patched ||
	    req->window.becomes || req->tramp_len > sizeof(req->tramp) || req->link >= SHIM_MAX_LINKS ||
	    req->window.site != req->sites + req->index * sizeof(*s))
		return -EINVAL;
	err = load_root(t, req);
	if (!err)
		err = load_link(t, req, link);
	if (!err && !is_free(s))
		err = -EOPNOTSUPP;
	if (err)
		return err;
	err = kp_maps(t->proc, is_file, &where);
	if (err < 0)
		return err;
	return where.found ? 0 : -EOPNOTSUPP;
}

static int put_marks(struct kp_target *t, const struct shim_kp_like *req, u32 nr_sites, u32 nr_links)
{
	const u32 marks[2] = { nr_sites, nr_links };

	_Static_assert(offsetof(struct shim_agent, nr_links) ==
			       offsetof(struct shim_agent, nr_sites) + 4,
		       "one write");
	return kp_write(t, req->root + offsetof(struct shim_agent, nr_sites), marks, sizeof(marks));
}

int kp_like(struct kp_target *t, const struct shim_kp_like *req)
{
	struct shim_site site = req->site;
	struct shim_site_link link;
	u64 at = 0;
	int err = check(t, req, &link);

	if (err)
		return err;
	at = root.links + root.nr_links * sizeof(link);
	site.first = root.nr_links + 1;
	site.flags |= sites[req->like].flags & INHERITED;
	site.needs = sites[req->like].needs;
	link.state -= link.link * sizeof(struct shim_link_state);
	link.state += req->link * sizeof(struct shim_link_state);
	link.live = link.next = 0;
	link.link = req->link;
	link.cookie = req->cookie;
	link.link_id = req->link_id;
	err = kp_write(t, site.tramp, req->tramp, req->tramp_len);
	if (!err)
		err = kp_write(t, at, &link, sizeof(link));
	if (!err)
		err = kp_write(t, req->window.site, &site, sizeof(site));
	if (!err)
		err = put_marks(t, req, root.nr_sites + 1, root.nr_links + 1);
	if (err)
		return err;
	err = kp_patch(t, &req->window, 1);
	if (err < 0) {
		put_marks(t, req, root.nr_sites, root.nr_links);
		return err;
	}
	link.live = 1;
	return kp_write(t, at + offsetof(struct shim_site_link, live), &link.live, sizeof(link.live));
}
