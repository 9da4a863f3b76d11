/* Sites, links and runnables: what the backend adds to this process's tables. Under root.lock. */
#include "state.h"
#include "both.h"
#include "sys.h"
#include "table.h"

/* A record that a link or a patched byte needs, or is going to. */
static int used(const struct shim_site *site)
{
	return site->first || site->patched || site->flags & SHIM_SITE_HELD;
}

void agent_let_sites_go(void)
{
	for (u32 i = 0; i < shim_agent_root.nr_sites; i++)
		agent_sites()[i].flags &= ~(u32)SHIM_SITE_HELD;
}

int agent_site_hosts(u32 index)
{
	for (u32 i = 0; i < shim_agent_root.nr_sites; i++) {
		const struct shim_site *site = &agent_sites()[i];

		if (site->host == index + 1 && site->addr && used(site))
			return 1;
	}
	return 0;
}

/* A record that nothing needs. */
static int idle(u32 index)
{
	return !used(&agent_sites()[index]) && !agent_site_hosts(index);
}

/* Bytes from its window on that nobody else may change. */
static u64 claim(const struct shim_site *site)
{
	return site->flags & SHIM_SITE_PUN ? 5 : site->window_len;
}

/* Another record, in use, that claims some of the same bytes. Not its host: that makes room for it. */
static int in_the_way(const struct shim_site *msg, u32 index)
{
	const struct shim_site *site = &agent_sites()[index];

	return site->window_len && msg->window_len && site->window < msg->window + claim(msg) &&
	       msg->window < site->window + claim(site) && site->addr != msg->addr &&
	       msg->host != index + 1 && !idle(index);
}

long agent_site_add(const struct shim_site *msg, u32 patience, u32 *existed)
{
	struct shim_agent *root = &shim_agent_root;
	u32 index = root->nr_sites, way = SHIM_MAX_SITES, again = SHIM_MAX_SITES;

	*existed = 0;
	if (!msg->addr || msg->window_len > SHIM_WINDOW_MAX || msg->first || msg->patched ||
	    msg->host > root->nr_sites)
		return -E_INVAL;
	if (msg->addr >= SHIM_EVENT_ADDR &&
	    (msg->addr - SHIM_EVENT_ADDR >= SHIM_MAX_EVENTS || msg->window_len || msg->window))
		return -E_INVAL;
	for (u32 i = 0; i < root->nr_sites; i++) {
		struct shim_site *site = &agent_sites()[i];

		if (site->addr == msg->addr) {
			*existed = !idle(i);
			index = i;
			if (*existed)
				return index;
		} else if (way == SHIM_MAX_SITES && in_the_way(msg, i)) {
			way = i;
		}
	}
	if (way < SHIM_MAX_SITES) {
		*existed = 2;
		return way;
	}
	/* records of other addresses are used again only when there is no room else. Not the one
	 * that this needs, which nothing else may need yet, nor one that a thread may be about to
	 * be told that it met, nor an event's. */
	for (u32 i = SHIM_MAX_SITES; index == SHIM_MAX_SITES && i--;)
		if (i + 1 != msg->host && !(agent_sites()[i].flags & SHIM_SITE_TRAP) &&
		    agent_sites()[i].addr < SHIM_EVENT_ADDR && idle(i))
			again = index = i;
	if (index == SHIM_MAX_SITES)
		return -E_NOSPC;
	agent_copy(&agent_sites()[index], msg, sizeof(*msg));
	/* A hit looks at the address within its guard: who has seen the old one is waited for before
	 * there are links. */
	if (again < SHIM_MAX_SITES && agent_quiesce(patience)) {
		agent_store(&agent_sites()[index].addr, 0ull);
		return -E_AGAIN;
	}
	if (index == root->nr_sites)
		agent_store(&root->nr_sites, index + 1);
	if (msg->addr >= SHIM_EVENT_ADDR)
		agent_store(&root->event_site[msg->addr - SHIM_EVENT_ADDR], index + 1);
	return index;
}

/* A record not in any list. One that was, only while no thread is inside a run that may walk it. */
static long free_link(u32 patience)
{
	struct shim_agent *root = &shim_agent_root;

	if (root->nr_links < SHIM_MAX_SITE_LINKS) {
		agent_store(&root->nr_links, root->nr_links + 1);
		return root->nr_links - 1;
	}
	agent_sys_not_lean();
	for (u32 i = 0; i < SHIM_MAX_SITE_LINKS; i++)
		if (!agent_links()[i].live)
			return agent_quiesce(patience) ? -E_BUSY : (long)i;
	return -E_NOSPC;
}

/* At the entry it needs all registers. */
static u32 whole(const struct shim_site_link *link)
{
	return link->kind >= SHIM_LINK_BOTH ||
	       (link->kind == SHIM_LINK_ENTRY && !(link->flags & SHIM_PROG_NO_CONTEXT));
}

/* AGENT_* */
static u32 lean(const struct shim_site_link *link)
{
	enum { CALLS_NOTHING = SHIM_PROG_BARE | SHIM_PROG_NO_CONTEXT };
	enum { KEEPS_BARE = SHIM_PROG_BARE | SHIM_PROG_KEEPS | SHIM_PROG_ENDS };
	enum { READS_ALONE = SHIM_PROG_READS | SHIM_PROG_VCPU };
	u32 found = link->kind == SHIM_LINK_ENTRY ? AGENT_ENTRY : 0;

	if (link->kind > SHIM_LINK_RET || link->tgid || link->cpu || link->tid)
		return found;
	found |= AGENT_PLAIN | (whole(link) ? 0 : AGENT_LEAN);
	if ((link->flags & CALLS_NOTHING) == CALLS_NOTHING)
		found |= AGENT_BARE;
	if (found & AGENT_ENTRY && link->flags & SHIM_PROG_NO_STACKS &&
	    !(link->flags & SHIM_PROG_OVERRIDE) && agent_private.fsgsbase)
		found |= AGENT_RUN;
	if (found & AGENT_RUN && link->flags & SHIM_PROG_ENDS)
		found |= AGENT_RUN_ENDS | (found & AGENT_LEAN ? AGENT_RUN_LEAN : 0);
	if (found & AGENT_RUN && (link->flags & READS_ALONE) == SHIM_PROG_READS)
		found |= AGENT_RUN_READS;
	if (found & AGENT_RUN && link->flags & SHIM_PROG_MAPS)
		found |= AGENT_RUN_MAPS;
	if (found & AGENT_RUN_ENDS && link->flags & SHIM_PROG_KEEPS)
		found |= AGENT_RUN_KEEPS | (found & AGENT_RUN_READS ? AGENT_RUN_QUICK : 0);
	if (found & AGENT_ENTRY && (link->flags & (KEEPS_BARE | SHIM_PROG_OVERRIDE)) == KEEPS_BARE &&
	    agent_private.fsgsbase)
		found |= AGENT_CALL_BARE;
	if (link->kind == SHIM_LINK_RET)
		found |= AGENT_RET;
	return found;
}

/* Before the link is in the list. Who has met the site as it was before leaves it out. */
static void agent_site_needs(struct shim_site *site, const struct shim_site_link *link)
{
	u32 bare = link->lean & AGENT_BARE && agent_private.fsgsbase, needs = SHIM_NEEDS_NOTHING;

	if (whole(link))
		needs = SHIM_NEEDS_REGISTERS;
	else if (!bare && link->kind == SHIM_LINK_ENTRY)
		needs = SHIM_NEEDS_C;
	if (!agent_private.fsgsbase && !needs)
		needs = SHIM_NEEDS_C;
	if (!site->first || (needs && site->needs != SHIM_NEEDS_REGISTERS))
		agent_store(&site->needs, needs);
	if (link->lean & AGENT_RUN)
		site->flags |= SHIM_SITE_RUN;
	if (link->kind == SHIM_LINK_RET && bare)
		site->flags |= SHIM_SITE_RET_BARE;
	else if (link->kind == SHIM_LINK_RET || !site->first)
		site->flags &= ~(u32)SHIM_SITE_RET_BARE;
}

long agent_link_add(u32 site_index, const struct shim_site_link *msg, u32 patience)
{
	struct shim_agent *root = &shim_agent_root;
	struct shim_site_link *link;
	struct shim_site *site;
	u32 *end;
	long index;

	if (site_index >= root->nr_sites || msg->session >= SHIM_MAX_SESSIONS ||
	    !root->sessions[msg->session].id || msg->link >= SHIM_MAX_LINKS || !msg->image ||
	    msg->kind > SHIM_LINK_AT_RET)
		return -E_INVAL;
	site = &agent_sites()[site_index];
	if (msg->flags & SHIM_PROG_OVERRIDE && site->addr < SHIM_EVENT_ADDR &&
	    (msg->kind != SHIM_LINK_ENTRY || !(site->flags & SHIM_SITE_SKIPS)))
		return -E_OPNOTSUPP;
	if (msg->kind == SHIM_LINK_BOTH && agent_both_init())
		return -E_NOMEM;
	index = free_link(patience);
	if (index < 0)
		return index;
	link = &agent_links()[index];
	agent_copy(link, msg, sizeof(*msg));
	link->ctl = root->sessions[msg->session].ctl;
	link->state = (u64) & ((struct shim_ctl *)root->sessions[msg->session].ctl)->link[msg->link];
	end = &site->first;
	/* as the kernel has its tracepoints; of a function, its own as well, the newest comes first */
	if (site->addr >= SHIM_EVENT_ADDR &&
	    site->addr - SHIM_EVENT_ADDR - SHIM_EVENT_FUNC >= SHIM_MAX_SYSCALLS)
		for (u32 n = 0; *end && n < SHIM_MAX_SITE_LINKS; n++)
			end = &agent_links()[*end - 1].next;
	link->next = *end;
	link->flags &= ~(u32)SHIM_PROG_KEYED;
	if (root->keyed >> msg->session & 1)
		link->flags |= SHIM_PROG_KEYED; /* met by C alone, keys.S */
	link->lean = link->flags & SHIM_PROG_KEYED ? 0 : lean(link);
	agent_site_needs(site, link);
	agent_store(&link->live, 1u);
	agent_store(end, (u32)index + 1);
	site->flags &= ~(u32)SHIM_SITE_HELD;
	agent_counter_up(site, link);
	root->masked += link->link_id == SHIM_MASKS_LINK;
	return index;
}

long agent_unlink(u64 link_id, u32 session, u32 only, u32 *indices, u32 room)
{
	u32 count = 0, end = shim_agent_root.nr_sites;

	if (only && only < end)
		end = only;
	for (u32 i = only ? only - 1 : 0; i < end; i++) {
		u32 *from = &agent_sites()[i].first;
		u32 removed = 0;

		while (*from) {
			struct shim_site_link *link = &agent_links()[*from - 1];

			if (link->session == session && (!link_id || link->link_id == link_id)) {
				agent_store(&link->live, 0u);
				/* its own 'next' stays: a run may stand on it */
				agent_store(from, link->next);
				agent_counter_down(&agent_sites()[i], link);
				shim_agent_root.masked -= link->link_id == SHIM_MASKS_LINK;
				removed = 1;
			} else {
				from = &link->next;
			}
		}
		if (removed && !agent_sites()[i].first && count < room)
			indices[count++] = i;
	}
	return count;
}

long agent_runnable_add(const struct shim_runnable *msg)
{
	struct shim_agent *root = &shim_agent_root;
	u32 index = root->nr_runnables;

	if (msg->session >= SHIM_MAX_SESSIONS || !root->sessions[msg->session].id)
		return -E_INVAL;
	for (u32 i = 0; i < root->nr_runnables; i++) {
		struct shim_runnable *r = &root->runnables[i];

		if (r->live && r->session == msg->session && r->prog_id == msg->prog_id) {
			agent_store(&r->live, 0u);
			index = i;
			break;
		}
		if (!r->live)
			index = i;
	}
	if (!msg->image)
		return index; /* removed */
	if (index == SHIM_MAX_RUNNABLES)
		return -E_NOSPC;
	agent_copy(&root->runnables[index], msg, sizeof(*msg));
	agent_store(&root->runnables[index].live, 1u);
	if (index == root->nr_runnables)
		agent_store(&root->nr_runnables, index + 1);
	return index;
}

/* Hits read a link's image once, so each runs the one or the other. */
long agent_image_swap(const struct shim_runnable *msg)
{
	struct shim_agent *root = &shim_agent_root;
	u32 count = 0;

	if (msg->session >= SHIM_MAX_SESSIONS || !root->sessions[msg->session].id || !msg->image)
		return -E_INVAL;
	for (u32 i = 0; i < root->nr_links; i++) {
		struct shim_site_link *link = &agent_links()[i];

		if (link->live && link->session == msg->session && link->prog_id == msg->prog_id) {
			agent_store(&link->image, msg->image);
			count++;
		}
	}
	for (u32 i = 0; i < root->nr_runnables; i++) {
		struct shim_runnable *r = &root->runnables[i];

		if (r->live && r->session == msg->session && r->prog_id == msg->prog_id) {
			agent_store(&r->image, msg->image);
			count++;
		}
	}
	return count;
}
