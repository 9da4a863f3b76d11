/* Programs that run at entry and return of a function: between the two runs. */
#ifndef AGENT_BOTH_H
#define AGENT_BOTH_H

#include "shim_agent.h"

enum { AGENT_BOTH_MAX = 8 }; /* such programs on one site; the others' returns are missed */

struct agent_both_run {
	u32 link; /* index into links[] */
	u32 pad;
	u64 link_id;
	struct shim_both seen;
};

/* Those of one invocation. */
struct agent_both {
	u64 n;
	struct agent_both_run run[AGENT_BOTH_MAX];
};

/* Room for what is kept; -ENOMEM. */
long agent_both_init(void);
void agent_both_end(void); /* it has been given back */
/* For the run at the entry; counts (n++) once that wants the return. NULL: no room. */
struct agent_both_run *agent_both_begin(struct agent_both *both, const struct shim_site_link *link);
/* For the run at the return; NULL: there was none at the entry, or it did not want this. */
struct agent_both_run *agent_both_again(struct agent_both *both, const struct shim_site_link *link);
/* Puts them to the return slot that the invocation has got; takes them from there (a copy: a signal
 * handler may be given the slot as soon as it is free). */
void agent_both_keep(u32 slot, const struct agent_both *both);
void agent_both_take(u32 slot, struct agent_both *both);

#endif
