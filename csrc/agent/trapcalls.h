/* Signal calls while there are sites of int3 (trapcalls.c). */
#ifndef AGENT_TRAPCALLS_H
#define AGENT_TRAPCALLS_H

#include "trap.h"

#pragma GCC visibility push(hidden)

enum {
	NR_SIGACTION = 13,
	SIGTRAP_ = 5,
	SIG_BLOCK_ = 0,
	SIG_UNBLOCK_ = 1,
	SIG_SETMASK_ = 2,
	SA_RESTORER_ = 0x04000000,
	SA_RESETHAND_ = (int)0x80000000u,
};
#define TRAP_BIT (1ull << (SIGTRAP_ - 1))

struct trap_action { /* the kernel's struct sigaction */
	u64 handler, flags, restorer, mask;
};

/* What the program thinks that it does with SIGTRAP. */
extern struct trap_action agent_trap_theirs;
/* Handlers that are there already do not block it. Other threads stand still, or there are none. */
void trap_unmask_handlers(void);

#pragma GCC visibility pop
#endif
