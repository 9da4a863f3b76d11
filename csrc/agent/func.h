/* The kernel's functions for system calls, as kprobes see them (func.c). */
#ifndef AGENT_FUNC_H
#define AGENT_FUNC_H

#include "state.h"

#pragma GCC visibility push(hidden)

static inline int agent_func_wanted(u32 nr)
{
	return nr < SHIM_MAX_SYSCALLS && agent_event_wanted(SHIM_EVENT_FUNC + nr);
}

/* regs: the application's. Nonzero: the call is to be skipped, regs->ax is its result. */
u32 agent_func_enter(u32 nr, struct shim_pt_regs *regs);
/* by: what agent_func_enter() has told of this call. */
void agent_func_return(u32 nr, struct shim_pt_regs *regs, u32 by);

#pragma GCC visibility pop
#endif
