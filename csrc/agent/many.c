/* Many sites and links by one message: what a transaction of a thousand places says. Under root.lock. */
#include "state.h"
#include "table.h"

/* out may lie where sites do: it is never ahead of what was read. */
void agent_sites_add(const struct shim_site *sites, u32 n, u32 patience, struct shim_agent_added *out)
{
	_Static_assert(sizeof(out[0]) <= sizeof(sites[0]), "answers take less room");
	for (u32 i = 0; i < n; i++) {
		struct shim_agent_added added = { -E_INVAL, 0 };

		if (!(sites[i].flags & SHIM_SITE_TRAP))
			added.index = (s32)agent_site_add(&sites[i], patience, &added.existed);
		out[i] = added;
	}
}

long agent_links_add(const struct shim_agent_links *msg, u32 n, u32 patience)
{
	const struct shim_agent_place *at = (const void *)(msg + 1);
	struct shim_site_link link = msg->link;

	link.live = 0;
	for (u32 i = 0; i < n; i++) {
		long ret;

		link.cookie = at[i].cookie;
		link.counter = at[i].counter;
		ret = agent_link_add(at[i].site, &link, patience);
		if (ret < 0)
			return ret;
	}
	return n;
}
