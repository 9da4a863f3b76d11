/*
 * The agent's door for the surface (csrc/surface), which links it into libbpf_shim.so.
 * What the keeper and the backend see of it is in shim_agent.h.
 *
 * Nothing here touches errno, allocates by malloc, or calls libc. Every wait is bounded.
 */
#ifndef AGENT_H
#define AGENT_H

#include "shim_types.h"
#include "shim_agent.h"
#include "shim_runtime.h"
#include "shim_wire.h"

/* What the constructor knows of its host; strings are copied. */
struct agent_host {
	u64 sysinfo_ehdr; /* getauxval(AT_SYSINFO_EHDR) */
	u64 hwcap2; /* getauxval(AT_HWCAP2): bit 1, FSGSBASE */
	const char *runtime_dir; /* $XDG_RUNTIME_DIR or NULL */
	u64 tid_at; /* from the fs base, where libc keeps a thread's number; 0: not known */
	const char *execfn; /* getauxval(AT_EXECFN); NULL: the library was loaded later */
};

/*
 * From the library's constructor, once; not in AT_SECURE processes. Visits every live
 * session in the run directory (reason START); if ptrace is refused here, registers the
 * mailbox. No run directory: two system calls.
 */
void agent_start(const struct agent_host *host);

/* What an exec of a file leads to, in the terms of dynamic linkers; as execveat takes them: dir, path,
 * flags. A script is what its interpreter is. NONE: it gains rights by its file, is of 32 bits, or
 * cannot be read or run. LOADS: glibc's, which loads what LD_PRELOAD names. OTHER: of another libc. */
enum { AGENT_NEXT_NONE = 0, AGENT_NEXT_LOADS = 1, AGENT_NEXT_STATIC = 2, AGENT_NEXT_OTHER = 3 };
u32 agent_next(long dir, const char *path, u32 flags);
/* Before an exec of a program that will not load the library: backends may want to be there. Behind
 * it, if it has failed. */
void agent_exec_ahead(void);
void agent_exec_over(void);

/* In the child of fork(), from a pthread_atfork handler: the mailbox is made again. */
void agent_forked(void);

/* Before a system call that may be seccomp(2) or prctl(2), with its first arguments: if it is to install
 * a filter that would mind calls of the agent's, the agent is muted; if it is to forbid the thread the time
 * stamp counter, clocks are system calls. fence.c. */
void agent_filter_ahead(u32 nr, u64 a, u64 b, u64 c) __attribute__((visibility("hidden")));
/* Called as that happens, if it is not NULL: in a preloaded library. */
extern void (*agent_mutes)(void) __attribute__((visibility("hidden")));
/* The agent makes no system calls any more, and its caller must have none made. */
u32 agent_muted(void) __attribute__((visibility("hidden")));

/* One conversation with the session whose socket is 'path'; 0 or negative errno: -EBUSY
 * (another conversation goes on), -ECONNREFUSED, -EACCES (not of this user or root),
 * -ETIMEDOUT, -EPROTO. Signals are blocked meanwhile. */
long agent_sync(const char *path, u32 reason); /* path "": agent_sweep */

/* A function of a program, as its ld_imm64 gave it, and its arguments. */
struct agent_callback {
	u64 fn;
	u64 r1, r2, r3;
};

/* What agent_run_prog runs: a program, or (callback) one of its functions. cpu: the virtual CPU to run on, or SHIM_NO_VCPU. packet: ctx is a
 * struct shim_packet. */
struct agent_run {
	u32 session_id;
	u32 prog_id;
	u32 cpu;
	u32 times; /* in a row, at least 1 */
	u32 packet;
	const struct agent_callback *callback;
};

/* Between these two the runs of a command of this thread's may have reads that fault (alone.c). blocked: signals that
 * are besides those that the command blocks, all but SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV; begun, ended: threads of
 * the library's, which count themselves as the first and last thing they do. No cost where nothing is read. */
struct agent_alone {
	u64 blocked;
	const u32 *begun, *ended;
};
void agent_alone_begin(const struct agent_alone *what) __attribute__((visibility("hidden")));
void agent_alone_end(void) __attribute__((visibility("hidden")));
/* A signal was sent that is to interrupt the command. */
u32 agent_alone_sent(void) __attribute__((visibility("hidden")));
/* Behind the command, the mask of signals as it was: such a signal comes. */
void agent_alone_tell(void) __attribute__((visibility("hidden")));

/* Runs a runnable of this process, ctx as the image takes it. *retval is r0 of the last run. 0,
 * -ENOENT (none, or its backend is dead), -EBUSY (this thread is inside a run, or no virtual CPU:
 * missed). */
long agent_run_prog(const struct agent_run *what, void *ctx, u64 *retval);

/* Number of threads of this process inside vfork() or posix_spawn(): while it is not zero a
 * hit asks the kernel who it is, since the child shares the parent's memory. Counted by the hook of
 * system calls (sys.c), atomically up before, down after, in the parent; under uprobes alone by nobody. */
extern u32 agent_vforks __attribute__((visibility("hidden")));

#endif
