/* Kernel functions of programs that run at entry and return of a function (bpf_trace.c of 6.18). */
#include "helpers.h"

static struct shim_both nowhere; /* of a run that is neither */

static struct shim_both *both(const struct shim_run *run)
{
	return run->both ? (struct shim_both *)run->both : &nowhere;
}

HELPER(session_is_return)
{
	UNUSED(r1, r2, r3, r4, r5, 0);
	return both(run)->is_return;
}

HELPER(session_cookie)
{
	UNUSED(r1, r2, r3, r4, r5, 0);
	return (u64)&both(run)->cookie;
}
