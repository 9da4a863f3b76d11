/* System calls whose hook comes to the run of one image that calls nothing: what sys.S is to find. */
#include "hit.h"
#include "lean.inc"
#include "sys.h"

AT(shim_call_site, nr, CALL_NR);
_Static_assert(offsetof(struct agent_sys_lean, site) == LEAN_SITE &&
		       sizeof(agent_sys_lean->link[0]) == LEAN_EXIT &&
		       CALL_BARE << 8 == AGENT_CALL_BARE && BY_LEAN_HOOK == AGENT_SYS_BY_LEAN,
	       "lean.inc");

struct agent_sys_lean *agent_sys_lean;
static struct shim_site_link nobody; /* never live */

void agent_sys_not_lean(void)
{
	for (u32 hook = 0; agent_sys_lean && hook < 2; hook++)
		for (u32 nr = 0; nr < SHIM_MAX_SYSCALLS; nr++)
			agent_store(&agent_sys_lean->link[hook][nr], (u64)(&nobody + 1));
}

void agent_sys_lean_end(void)
{
	agent_sys_lean = NULL;
}

/* 0: there is no memory for it. */
static int make(void)
{
	struct agent_sys_lean *made = agent_sys_lean;

	if (made)
		return 1;
	made = (struct agent_sys_lean *)agent_map_anon(sizeof(*made));
	if (made)
		agent_store(&agent_sys_lean, made);
	return made != NULL;
}

u32 agent_sys_by_lean(u32 hook, u32 nr, u32 alone)
{
	u32 event = (hook ? SHIM_EVENT_SYS_EXIT : SHIM_EVENT_SYS_ENTER) + nr;
	const struct shim_site *site = alone ? agent_event_site(event) : NULL;
	u32 first = site ? agent_load(&site->first) : 0;
	const struct shim_site_link *link = &nobody;

	if (first)
		link = &agent_links()[(first - 1) % SHIM_MAX_SITE_LINKS];
	if (!(link->lean & AGENT_CALL_BARE) || link->next || !make())
		link = &nobody;
	if (!agent_sys_lean)
		return 0;
	if (link != &nobody)
		agent_store(&agent_sys_lean->site[hook][nr], (u64)site);
	agent_store(&agent_sys_lean->link[hook][nr], (u64)(link + 1));
	return link != &nobody;
}
