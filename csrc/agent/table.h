/* Changes of the tables, each an index or a negative errno; the caller holds root.lock. */
#ifndef AGENT_TABLE_H
#define AGENT_TABLE_H

#include "shim_agent.h"
#include "shim_wire.h"

/* -EINVAL, -ENOSPC; -EAGAIN: a run is in progress that may be of the record's former address. patience:
 * agent_quiesce's. *existed: 1: the record is in use and was left as it is; 2: it is another
 * one, whose window is in the way. */
long agent_site_add(const struct shim_site *msg, u32 patience, u32 *existed);
/* A site in use needs this one to be patched. */
int agent_site_hosts(u32 index);

/* The conversation in which sites were SHIM_SITE_HELD is over. */
void agent_let_sites_go(void);
/* Appends to the site's list, live. -EINVAL, -ENOSPC, -EBUSY. */
long agent_link_add(u32 site_index, const struct shim_site_link *msg, u32 patience);
/* many.c: the same for several; links: how many, up to the first that is refused, or why that is. */
void agent_sites_add(const struct shim_site *sites, u32 n, u32 patience, struct shim_agent_added *out);
long agent_links_add(const struct shim_agent_links *msg, u32 n, u32 patience);
/* Removes the session's links of that id (0: all), only: at the site of that index + 1 (0: everywhere).
 * Result: number of sites left without a link, their indices in 'indices'. */
long agent_unlink(u64 link_id, u32 session, u32 only, u32 *indices, u32 room);
/* Adds a runnable, or replaces the one of the same program; image 0: removes it. */
long agent_runnable_add(const struct shim_runnable *msg);
long agent_image_swap(const struct shim_runnable *msg);

/* counter.c: a link has come into its site's list; it has gone from there. */
void agent_counter_up(struct shim_site *site, struct shim_site_link *link);
void agent_counter_down(struct shim_site *site, struct shim_site_link *link);
/* Address of the link's reference counter, 0: none. */
u64 agent_counter_of(const struct shim_site_link *link);

#endif
