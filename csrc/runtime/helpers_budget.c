/* Runs that have used up the instructions that their class grants them: how often that was. */
#include "helpers.h"

/* What is left of a run that has told: one that a tail call has led on, inside of a function, ends there and
 * once more in whoever called that. */
#define TOLD (-(1LL << 40))

HELPER(budget_ended)
{
	struct shim_ctl *ctl = (struct shim_ctl *)run->ctl;
	struct shim_stat *stat = &ctl->stat[run->prog_id % SHIM_MAX_STATS];

	UNUSED(r1, r2, r3, r4, r5);
	if (run->left < TOLD / 2)
		return 0;
	run->left = TOLD;
	if (__atomic_load_n(&stat->prog_id, __ATOMIC_RELAXED) == run->prog_id)
		__atomic_add_fetch(&stat->ended, 1, __ATOMIC_RELAXED);
	return 0;
}
