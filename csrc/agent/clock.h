/* Clocks: ticks of threads' CPU time, and who is told of them. */
#ifndef AGENT_CLOCK_H
#define AGENT_CLOCK_H

#include "shim_agent.h"
#include "shim_wire.h"

/* Under root.lock. arm 0: the number of a clock with that period, made if there is none (-ENOSPC), in
 * the place of one that no link needs; arm 1: every thread has a timer from now on, or -EBUSY (another
 * thread is at it), -EAGAIN (the kernel gives no timers). */
long agent_clock(const struct shim_agent_clock *msg);

/* SHIM_SYM_THREAD: where a thread begins; it has its timers from then on. */
struct shim_site;
u64 agent_thread_begins(struct shim_pt_regs *regs, struct shim_site *site);

/* Beside stopped threads, when no clock is needed: no timer, no handler is left. */
void agent_clock_end(void);

/* No clock ticks any more, whoever needs it (fence.c). */
void agent_clock_mute(void);

/* At the end of the process, from exit(): page faults that no tick has told. */
void agent_clock_last(void);

/* In a fork child: timers are not inherited. */
void agent_clock_forked(void);

#endif
