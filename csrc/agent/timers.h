/* Timers of the threads' CPU clocks: one a thread for each number that ticks. All of it under the lock
 * of clock.c. */
#ifndef AGENT_TIMERS_H
#define AGENT_TIMERS_H

#include "shim_types.h"

enum {
	AGENT_CLOCKS = 32,
	AGENT_WATCH = AGENT_CLOCKS, /* number of the slow timer */
	AGENT_TIMER_NUMBERS,
};

/* A tick's value: this above a number, as tick.S asks. */
enum { AGENT_TIMER_MAGIC = 0x53484d43 };

/* 0, or -ENOMEM. */
long agent_timers_tables(void);

/* From the next ensure() or look() on: the number ticks every so many ns, by that signal. */
void agent_timers_set(u32 number, u32 signo, u64 every);

/* It ticks no more. */
void agent_timers_drop(u32 number);

/* The timers of a thread, or of every thread there is; those of threads that are no more go with the
 * second. 0, or -EAGAIN: the kernel gives none. */
long agent_timers_ensure(u32 tid);
long agent_timers_look(void);

/* Have threads come or gone since the last look? */
int agent_timers_stale(void);

/* In a fork child, which inherits none. */
void agent_timers_forget(void);

/* Nothing ticks; the table goes with what the agent has mapped. */
void agent_timers_end(void);

#endif
