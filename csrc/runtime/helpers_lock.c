/* bpf_spin_lock and bpf_spin_unlock: the word in the value is an owner word like any lock of ours, so
 * that the lock of a process that died is taken over. */
#include "helpers.h"

/* As in the kernel there is no way to fail: who holds it runs, or is dead and found to be. */
HELPER(spin_lock)
{
	UNUSED(r2, r3, r4, r5);
	while (run_lock((u32 *)r1, run) < 0)
		;
	return 0;
}

HELPER(spin_unlock)
{
	UNUSED(r2, r3, r4, r5);
	run_unlock((u32 *)r1, run);
	return 0;
}
