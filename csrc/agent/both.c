/*
 * Programs that run at a function's entry and at its return (SHIM_LINK_BOTH, uprobe sessions): what
 * the entry's run leaves for the return's, by return slot. Which links they are stands there too:
 * one that came after the entry does not run at the return.
 */
#include "state.h"
#include "both.h"
#include "ret.h"

static struct agent_both *kept; /* [RET_SLOTS], made with the first such link */

long agent_both_init(void)
{
	if (!kept)
		agent_store(&kept, (struct agent_both *)agent_map_anon(RET_SLOTS * sizeof(*kept)));
	return kept ? 0 : -E_NOMEM;
}

void agent_both_end(void)
{
	kept = NULL;
}

struct agent_both_run *agent_both_begin(struct agent_both *both, const struct shim_site_link *link)
{
	struct agent_both_run *run = &both->run[both->n];

	if (both->n == AGENT_BOTH_MAX)
		return NULL;
	run->link = (u32)(link - agent_links());
	run->link_id = link->link_id;
	run->seen.is_return = run->seen.cookie = 0;
	return run;
}

struct agent_both_run *agent_both_again(struct agent_both *both, const struct shim_site_link *link)
{
	for (u32 i = 0; both && i < both->n && i < AGENT_BOTH_MAX; i++) {
		struct agent_both_run *run = &both->run[i];

		if (run->link == (u32)(link - agent_links()) && run->link_id == link->link_id) {
			run->seen.is_return = 1;
			return run;
		}
	}
	return NULL;
}

static void copy(struct agent_both *to, const struct agent_both *from)
{
	u64 n = from->n < AGENT_BOTH_MAX ? from->n : AGENT_BOTH_MAX;

	for (u64 i = 0; i < n; i++)
		to->run[i] = from->run[i];
	if (to->n != n)
		to->n = n;
}

void agent_both_keep(u32 slot, const struct agent_both *both)
{
	struct agent_both *all = agent_load(&kept);

	if (all && slot < RET_SLOTS)
		copy(&all[slot], both);
}

void agent_both_take(u32 slot, struct agent_both *both)
{
	const struct agent_both *all = agent_load(&kept);

	both->n = 0;
	if (all && slot < RET_SLOTS)
		copy(both, &all[slot]);
}
