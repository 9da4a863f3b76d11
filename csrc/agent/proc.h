/* What processes do to each other: forks, execs, exits, signals (proc.c, signals.c). */
#ifndef AGENT_PROC_H
#define AGENT_PROC_H

#include "state.h"

#pragma GCC visibility push(hidden)

/* Which system calls lead to an event of these that somebody wants. */
int agent_proc_wants(u32 nr);
/* Before and after such a call, on the application's stack. */
void agent_proc_enter(struct shim_thread *t, u32 nr, const struct shim_pt_regs *regs);
void agent_proc_exit(struct shim_thread *t, u32 nr, const struct shim_pt_regs *regs);
/* What the backend knows of a process that has ended; -EBUSY. */
long agent_proc_ended(struct shim_agent_ended *msg);
/* A new image runs; file: what execve was given. */
void agent_proc_exec(const char *file);
long agent_proc_begun(void);

/* What tracepoints' records begin with. */
struct proc_head {
	u16 type;
	u8 flags, preempt_count;
	s32 pid;
};
void proc_head(struct proc_head *h, u32 event, u32 tid);

/* A thread's /proc/TID/stat, as far as it matters. */
struct proc_stat {
	char state;
	s32 parent, prio, exit_signal;
	u64 start;
};
int proc_stat(u32 tid, struct proc_stat *out);
void proc_comm(u32 tid, char comm[16]);

/* signals.c: signal_generate for the signals that a call is about to send; for the end of this
 * process, in whose leader's name. */
void signals_sent(struct shim_thread *t, u32 nr, const struct shim_pt_regs *regs);
void signals_end(struct shim_stand_in *leader, s32 exit_signal, u32 session);
/* The kernel has sent it one by which it ended: a fault's, or that of a write that nobody reads. */
void signals_own(struct shim_stand_in *leader, u32 sig, u32 session);
int signals_sender(u32 nr);

/* enter.c: the links of an event (of one session; SHIM_MAX_SESSIONS: of all), in another's name.
 * as: all but thread.index, locks and so on, which this thread lends. */
void agent_run_event_as(u32 event, void *ctx, struct shim_stand_in *as, u32 session);

/* Lines of a file, each cut to what fits. */
struct proc_file {
	long fd;
	u32 at, n;
	char buf[256];
	struct shim_ask *ask; /* the backend's copy of it, in the place of fd; how much was read */
	u32 read;
	struct shim_thread *t; /* who reads that, under a guard */
	u32 made;
};
/* /proc/TID/NAME by the sessions' number; /proc/self/NAME; /proc/thread-self/NAME; /proc/self/task/ENTRY/NAME
 * by what stands in that folder. */
void proc_open(struct proc_file *f, u32 tid, const char *name);
void proc_open_self(struct proc_file *f, const char *name);
void proc_open_thread(struct proc_file *f, const char *name);
void proc_open_task(struct proc_file *f, u32 entry, const char *name);
int proc_line(struct proc_file *f, char *line, u32 room); /* its length; -1: the end */
void proc_close(struct proc_file *f);
u64 proc_number(const char **text, u32 base);

#pragma GCC visibility pop
#endif
