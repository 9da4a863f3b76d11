/* System calls as the agent meets them: sys.c runs what is attached, calls.c writes the windows. */
#ifndef AGENT_SYS_H
#define AGENT_SYS_H

#include "state.h"

#pragma GCC visibility push(hidden)

/* sys.S, sysown.S: what trampolines call. */
void agent_call_enter(void);
void agent_call_exit(void);
void agent_call_enter_own(void);
void agent_call_exit_own(void);

/* By number, then of any call: somebody wants to know of it. Never less than what is attached. */
enum { AGENT_SYS_ANY = 0, AGENT_SYS_ENTER = 1, AGENT_SYS_EXIT = 2 };
extern u8 agent_sys_wanted[3][SHIM_MAX_SYSCALLS + 1];
/* In the rows of ENTER and EXIT: where the number is known, sys.S runs the one link that there is. It finds
 * that here, and its site, by the hook, EXIT the second: the address behind the link's record, which may be a
 * dead one's. There from the first such link on. */
enum { AGENT_SYS_BY_LEAN = 2 };
struct agent_sys_lean {
	u64 link[2][SHIM_MAX_SYSCALLS];
	u64 site[2][SHIM_MAX_SYSCALLS];
};
extern struct agent_sys_lean *agent_sys_lean;
extern struct notes *agent_sys_notes; /* sys.c: what a thread is in the middle of */

/* sys.c. The hooks, on the application's stack. Nonzero: the call is to be skipped. */
u64 agent_sys_enter(struct shim_pt_regs *regs, const struct shim_call_site *site);
void agent_sys_exit(struct shim_pt_regs *regs, const struct shim_call_site *site);
/* Memory for what threads are in the middle of, before there are windows; 0 or -ENOMEM. The end is
 * beside stopped threads, the memory agent_empty()'s. */
long agent_sys_init(void);
void agent_sys_end(void);
/* Puts agent_sys_wanted right after links have come or gone. Under root.lock. */
void agent_sys_changed(void);
/* Until then sys.S finds none: before runs are waited for, whose links' records are used again. */
void agent_sys_not_lean(void);
void agent_sys_lean_end(void);
/* 1: the hook (0, or 1: of the exit) of this number is sys.S's. alone: no more is to be done there than to run
 * what is attached to this one. Under root.lock. */
u32 agent_sys_by_lean(u32 hook, u32 nr, u32 alone);
/* Is some event of a system call attached to? The exit of this one? */
int agent_sys_attached(void);
int agent_sys_exit_wanted(u32 nr);
/* The exit of a call that no trampoline has seen. */
void agent_sys_tell_exit(struct shim_thread *t, u32 nr, u64 result);

/* exec.c: before an execve, after one that failed, and in the new image. */
void agent_exec_begins(struct shim_thread *t, u32 nr);
void agent_exec_failed(struct shim_thread *t);
void agent_exec_done(void);
/* ahead.c: an execve, as the last thing before it. */
void agent_exec_seen(u32 nr, const struct shim_pt_regs *regs);

/* calls.c: before a site's window is written at [at, at + len), jumps of calls that stand there go, whole. whole:
 * beside other threads. -ESTALE: one may not. */
long agent_calls_lift(u64 at, u32 len, u32 whole, long mem);
/* What became executable just now, while the backends are told: [lo, hi). */
extern u64 agent_mapped_lo, agent_mapped_hi;
/* Windows of a region, -EBUSY, -EINVAL, -ENOSPC; how many it wrote. */
long agent_calls(const struct shim_agent_calls *msg, u32 reason, long mem);

#pragma GCC visibility pop
#endif
