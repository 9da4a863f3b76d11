/*
 * Reference counters of probes (USDT semaphores): a word of the program's data that is one more as
 * long as a site has links that name it, however many, as the kernel does it for each of its
 * breakpoints. Under root.lock; the keeper does the same in csrc/keeper/counter.c.
 *
 * Which links are on a site is the whole of the state: nothing else is to be put right after a
 * fork, and a record that is taken out by somebody else is taken out in the same way.
 */
#include "state.h"
#include "table.h"

u64 agent_counter_of(const struct shim_site_link *link)
{
	return link->counter & SHIM_COUNTER_TO_BE ? 0 : link->counter & SHIM_COUNTER_ADDR;
}

/* Some link of the site's list has this counter. */
static int has(const struct shim_site *site, u64 counter, const struct shim_site_link *but)
{
	for (u32 at = site->first, n = 0; at && n < SHIM_MAX_SITE_LINKS; n++) {
		const struct shim_site_link *link = &agent_links()[(at - 1) % SHIM_MAX_SITE_LINKS];

		if (link != but && agent_counter_of(link) == counter)
			return 1;
		at = link->next;
	}
	return 0;
}

/* The site's module is still there: nobody else's memory lies at its addresses. */
static int there(const struct shim_site *site)
{
	const struct shim_site *host = &agent_sites()[(site->host - 1) % SHIM_MAX_SITES];
	u8 now[SHIM_WINDOW_MAX];
	u32 len;

	if (site->host && !(host->flags & SHIM_SITE_HOLE))
		site = host; /* its own window is in our trampoline */
	len = site->window_len;
	if (!len || len > SHIM_WINDOW_MAX || shim_copy_from(now, site->window, len))
		return 0;
	return !agent_differs(now, site->patch, len) || !agent_differs(now, site->orig, len);
}

/* Not below zero; 0 or -EFAULT (nothing to be written is there). */
static long add(u64 counter, s32 what)
{
	u16 value;

	if (shim_copy_from(&value, counter, 2))
		return -E_FAULT;
	if (what < 0 && !value)
		return 0;
	value = (u16)(value + what);
	return shim_copy_to(counter, &value, 2) ? -E_FAULT : 0;
}

void agent_counter_up(struct shim_site *site, struct shim_site_link *link)
{
	u64 counter = agent_counter_of(link);

	if (counter && !has(site, counter, link) && add(counter, 1))
		link->counter = 0;
}

void agent_counter_down(struct shim_site *site, struct shim_site_link *link)
{
	u64 counter = agent_counter_of(link);

	if (counter && !has(site, counter, link) && there(site))
		add(counter, -1);
	link->counter = 0;
}
