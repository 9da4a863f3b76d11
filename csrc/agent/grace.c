/*
 * Grace periods: has every run that was in progress at some moment ended since? Asked from one
 * conversation to the next, since threads that the keeper has stopped inside a run do not end it.
 * One period at a time; under root.lock.
 */
#include "state.h"

static struct {
	u32 begun, over; /* serial numbers */
	u32 runs[AGENT_THREADS]; /* of threads that were inside one, shim_thread.runs; else 0 */
} grace;

/* In the run that it was in when the period began? */
static int still(u32 index)
{
	struct shim_thread *t = &agent_threads()[index];

	if (!grace.runs[index] || !t->fs_base || !agent_load(&t->guard_sp) ||
	    agent_load(&t->runs) != grace.runs[index])
		return 0;
	return !agent_died(t);
}

static int passed(void)
{
	for (u32 i = 1; i < AGENT_THREADS; i++)
		if (still(i))
			return 0;
	return 1;
}

void agent_grace(struct shim_agent_grace *out, u32 stopped)
{
	out->begun = grace.begun;
	out->over = grace.over;
	out->fresh = 0;
	if (!stopped && agent_barrier())
		return;
	if (grace.begun != grace.over && passed())
		grace.over = grace.begun;
	if (grace.begun == grace.over) {
		for (u32 i = 1; i < AGENT_THREADS; i++) {
			struct shim_thread *t = &agent_threads()[i];

			grace.runs[i] = t->fs_base && agent_load(&t->guard_sp) ? t->runs : 0;
		}
		grace.begun++;
		out->fresh = 1;
		if (passed())
			grace.over = grace.begun;
	}
	out->begun = grace.begun;
	out->over = grace.over;
}
