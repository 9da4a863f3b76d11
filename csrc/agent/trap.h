/* Sites of one byte, int3 (trap.c). Under root.lock, but for the hooks. */
#ifndef AGENT_TRAP_H
#define AGENT_TRAP_H

#include "state.h"

#pragma GCC visibility push(hidden)

/* Before such a site is added: our handler is there, and no thread blocks SIGTRAP. reason: of the
 * conversation. -EBUSY: a thread does now, or others run. The handler knows the site by
 * its index from agent_trap_note on. */
long agent_trap_begin(u32 reason);
void agent_trap_note(u32 index);
/* Is there such a site, patched or with a link? */
int agent_trap_used(void);
/* The handler goes, if it is ours and leads nowhere any more. */
void agent_trap_end(void);

/* Around system calls (sys.c) that could block SIGTRAP or take the handler away. Nonzero: it has been
 * made, regs->ax is its result. t: NULL if the thread has no block. */
int agent_trap_wants(u32 nr);
/* It did, or does, while there are such sites. */
int agent_trap_may_want(u32 nr);
u64 agent_trap_enter(const struct shim_thread *t, u32 nr, struct shim_pt_regs *regs);
void agent_trap_exit(const struct shim_thread *t, u32 nr, const struct shim_pt_regs *regs);

/* The signals that the thread in a conversation had blocked when it began (sync.c). */
extern u64 agent_sync_mask;
/* A thread whose conversation is over, and which is about to have its signals back; 0: none. */
extern u32 agent_sync_leaver;

#pragma GCC visibility pop
#endif
