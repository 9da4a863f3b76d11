/* The stacks of ownstack.S: taken and given back there, by one instruction each. */
#include "state.h"

enum { STACKS = 64, STACK_SIZE = 1 << 15 };

u64 agent_own_stacks; /* the lowest one's address */
u64 agent_own_free; /* a bit a stack; 0 until there are any */

_Static_assert(offsetof(struct shim_site, hits_dropped) == 120, "ownstack.S");
_Static_assert(STACKS *STACK_SIZE == 0x200000, "full.S");

long agent_own_init(void)
{
	if (!agent_own_stacks)
		agent_own_stacks = agent_map_anon(STACKS * STACK_SIZE);
	if (!agent_own_stacks)
		return -E_NOMEM;
	agent_store(&agent_own_free, ~0ull);
	return 0;
}

/* Both ways in push ss first, then the application's stack pointer (struct shim_pt_regs). */
u64 agent_app_sp(u64 frame)
{
	u64 at = frame - agent_own_stacks;

	if (!agent_own_stacks || at >= STACKS * STACK_SIZE)
		return frame;
	return *(u64 *)(frame - at % STACK_SIZE + STACK_SIZE - 16);
}

/* In a fork child: but for the stack that this may be running on, they were others' threads'. */
void agent_own_forked(void)
{
	u64 at = (u64)__builtin_frame_address(0) - agent_own_stacks;

	if (agent_own_stacks)
		agent_store(&agent_own_free,
			    at < STACKS * STACK_SIZE ? ~(1ull << at / STACK_SIZE) : ~0ull);
}

/* Their memory is about to go. */
void agent_own_end(void)
{
	agent_own_free = agent_own_stacks = 0;
}
