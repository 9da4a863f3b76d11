/*
 * The agent in a target, as the keeper and the backend see it.
 *
 * The site table belongs to the process: one record a patched site, with the original
 * bytes, and a list of links. It lies in private memory of the process, so a fork
 * child has its own copy beside its own copy of the patched text. It is changed by the
 * agent (under 'lock', in agent_sync) or by the keeper (under a ptrace stop, lock free).
 */
#ifndef SHIM_AGENT_H
#define SHIM_AGENT_H

#include "shim_types.h"
#include "shim_run.h"

enum {
	SHIM_AGENT_MAGIC = 0x54474153,
	SHIM_AGENT_VERSION = 14,
	SHIM_MAX_SITES = 8192,
	SHIM_MAX_SITE_LINKS = 16384,
	SHIM_MAX_SESSIONS = 64,
	SHIM_MAX_RUNNABLES = 1024,
	SHIM_WINDOW_MAX = 32, /* bytes of the longest window */
};

/*
 * Events: what a process comes to without an instruction of its own. An event has a site record
 * like any other, without a window, whose addr is SHIM_EVENT_ADDR + its number (no address of
 * user space); so links are added, taken out and cleaned up as everywhere.
 */
enum {
	SHIM_EVENT_SYS_ENTER = 0, /* + number of the system call, below SHIM_MAX_SYSCALLS */
	SHIM_EVENT_SYS_EXIT = 512, /* the same */
	SHIM_EVENT_RAW_ENTER = 1024, /* every system call, as raw tracepoints tell of it */
	SHIM_EVENT_RAW_EXIT = 1025,
	SHIM_EVENT_SCHED_EXEC = 1026,
	SHIM_EVENT_SCHED_FORK = 1027,
	SHIM_EVENT_SCHED_EXIT = 1028,
	SHIM_EVENT_SIGNAL = 1029, /* signal_generate */
	SHIM_EVENT_ALL_ENTER = 1030, /* every system call: tracepoints raw_syscalls:* */
	SHIM_EVENT_ALL_EXIT = 1031,
	SHIM_LAST_OF_CALLS = 1031, /* all up to here but SCHED_EXEC are met at system calls; FUNC too */
	SHIM_EVENT_CLOCK = 1032, /* + 0..31: clocks, one a perf event */
	SHIM_EVENT_FUNC = 1088, /* + number of the system call: the function behind it */
	SHIM_MAX_EVENTS = 1600,
	SHIM_MAX_SYSCALLS = 512,
	SHIM_EVENT_SHIFT = 63, /* SHIM_EVENT_ADDR, for cffi */
};
#define SHIM_EVENT_ADDR (1ull << SHIM_EVENT_SHIFT)
/* shim_site_link.link_id of a place where handlers of signals are asked for; cookie: 1, the arguments are
 * those of rt_sigaction(2); 2, of syscall(); | number of the place << 8 | how many there are << 16. */
enum { SHIM_QUICK_SHIFT = 61, SHIM_MASKS_SHIFT = 60 };
#define SHIM_QUICK_LINK (1ull << SHIM_QUICK_SHIFT)
#define SHIM_MASKS_LINK (1ull << SHIM_MASKS_SHIFT)
#define SHIM_QUICK_LINKS (SHIM_QUICK_LINK | SHIM_MASKS_LINK)

/* RET: by the return address. BOTH: at the entry, and at the return if the run at the entry returned
 * 0. MARK, LEAVE: of a function whose return address must stay as it is: a link at its entry,
 * without a program of its own, and one at each instruction that leaves it. AT_RET: at a `ret` of
 * shim_site.func, whoever has called that. */
enum {
	SHIM_LINK_ENTRY = 0,
	SHIM_LINK_RET = 1,
	SHIM_LINK_BOTH = 2,
	SHIM_LINK_MARK = 3,
	SHIM_LINK_LEAVE = 4,
	SHIM_LINK_AT_RET = 5,
};
/*
 * shim_site.flags. SINGLE: the window is one instruction, so a thread stands before or after it.
 * FRESH: the module is being loaded by the dlopen under way, nobody runs it yet. HOLE: no
 * instruction of anybody's, but dead bytes that hold the jump of the sites that name it as their
 * host; its tramp is where that leads. With func, the jump stands there, inside a window of several
 * instructions that makes room for it, and addr is no address. PUN: five bytes, the window and what
 * follows it, must stay as they are while it is patched. HELD: in use before it has a link, to the
 * end of the conversation. RET_BARE: the images of all its return links
 * are SHIM_PROG_BARE. TRAP: the window begins with int3, whose signal leads to the trampoline
 * (csrc/agent/trap.c). SKIPS: its trampoline can leave the function out (rewrite/render.py, out). RUN: some
 * link of it may be full.S's.
 *
 * A site's host is patched whenever the site may be: of a short jump it is the hole; of a site
 * whose window is a slot in another one's trampoline, that one. It is patched first and
 * restored last, with or without links of its own.
 */
enum {
	SHIM_SITE_SINGLE = 1,
	SHIM_SITE_FRESH = 2,
	SHIM_SITE_HOLE = 4,
	SHIM_SITE_PUN = 8,
	SHIM_SITE_HELD = 16,
	SHIM_SITE_TRAP = 32,
	SHIM_SITE_RET_BARE = 64,
	SHIM_SITE_SKIPS = 128,
	SHIM_SITE_RUN = 256,
};
/* shim_site_link.flags. VCPU: touches per-CPU storage, claim a virtual CPU. AGAIN: the function may
 * return more than once for one call. NO_CONTEXT: the program does not look at its context, nor does
 * what it calls. NO_STACKS: it does not walk stacks. BARE: its image calls nothing, and reads thread,
 * cookie, func_ip and vcpu of its struct shim_run alone. OVERRIDE: it may skip the function, so its site
 * is SHIM_SITE_SKIPS. ENDS: its image ends by returning, never by SHIM_SYM_UNREACHABLE or SHIM_SYM_CONTAINED,
 * which leave registers as they are. READS: what its image calls reads memory, clocks and who runs, and so
 * of its struct shim_run ctl and regs beside what BARE names. KEEPS: it writes nothing into its context.
 * MAPS: what its image calls does no more than READS, changes maps or sends records of a ring, and so looks at
 * owner and scratch too. */
enum {
	SHIM_PROG_VCPU = 1,
	SHIM_PROG_AGAIN = 2,
	SHIM_PROG_NO_CONTEXT = 4,
	SHIM_PROG_NO_STACKS = 8,
	SHIM_PROG_BARE = 16,
	SHIM_PROG_OVERRIDE = 32,
	SHIM_PROG_ENDS = 64,
	SHIM_PROG_READS = 128,
	SHIM_PROG_KEYED = 256, /* the agent's: of a session that is under the key */
	SHIM_PROG_KEEPS = 512,
	SHIM_PROG_MAPS = 1024,
};
/*
 * System calls. A module's trampolines lie in one region (libbpf_shim/rewrite/callregion.py) that
 * begins with this head; behind the code its windows are listed. A region stays where it is as long as
 * its module does: what goes with the last link are the jumps into it.
 */
enum { SHIM_CALLS_MAGIC = 0x4c4c4143, SHIM_MAX_CALLS = 128, SHIM_CALL_SHARED = 1, SHIM_CALL_KEPT = 8 };

/* Flags of a window: how many bytes of instructions are executed elsewhere; sites of int3 are safe only
 * where it is written; a short jump of another window leads to it. */
enum { SHIM_CALL_WHOLE = 63, SHIM_CALL_NEEDED = 64, SHIM_CALL_ISLAND = 128 };

struct shim_calls {
	u32 magic;
	u32 nr; /* windows */
	u64 key; /* of the plan, and of how it was rendered */
	u64 bias; /* of the module */
	u64 enter, leave; /* hooks: agent_call_enter, agent_call_exit */
	u64 wanted; /* u8[3][SHIM_MAX_SYSCALLS + 1], by number, then of any: by a hook, enter, leave */
	u32 table; /* offset of struct shim_call_window[nr] */
	u32 pad;
};
SHIM_ASSERT(sizeof(struct shim_calls) == 56);

struct shim_call_window {
	s32 at; /* less the address of struct shim_calls */
	u8 len;
	u8 orig[5];
	u8 patch[5];
	u8 flags; /* SHIM_CALL_* */
};
SHIM_ASSERT(sizeof(struct shim_call_window) == 16);

/* One call, as its trampolines name it. */
struct shim_call_site {
	s32 behind; /* address behind the call, less that of this record */
	s16 nr; /* -1: rax says it */
	u16 flags; /* SHIM_CALL_SHARED; from bit SHIM_CALL_KEPT on: rax came from that word behind the call, from 1 */
};

/* A region in a process: at 0 there is none. */
struct shim_call_region {
	u64 at;
	u32 patched;
	u32 pad;
};

/* One session as mapped here. */
struct shim_session {
	u32 id; /* 0: free */
	u32 owner; /* owner word of this process, thread bits 0; 0: to be claimed (fork child) */
	u64 ctl; /* struct shim_ctl * */
	u64 ctl_size;
	u64 perf;
	u64 perf_size;
	u64 ctl_ino; /* inode of the control memfd: names the session in /proc/PID/maps */
	u64 objects; /* struct shim_objects * (shim_map.h), or 0; maps point at this word */
};

/* One program on one site. 'live' is the last thing set and the first thing cleared. */
struct shim_site_link {
	u32 live;
	u32 next; /* index + 1 into links[], 0: end; of functions the newest is first, of tracepoints the oldest */
	u32 session; /* index into sessions[] */
	u32 link; /* index into shim_ctl.link[] */
	u32 kind; /* SHIM_LINK_* */
	u32 flags; /* SHIM_PROG_* */
	u32 prog_id;
	u32 tgid; /* fork children inherit this record: pid filter by value; 0: none */
	u64 image; /* entry of the relocated image */
	u64 cookie;
	u64 link_id; /* backend's object id */
	u32 cpu; /* runs on this CPU of the machine alone, + 1; 0: on any */
	u32 tid; /* in this thread alone; 0: in any */
	u64 ctl; /* the agent's: its session's struct shim_ctl, as mapped here */
	u64 state; /* and its struct shim_link_state, as mapped here */
	u32 lean; /* the agent's: AGENT_PLAIN, AGENT_LEAN */
	u32 key; /* SHIM_LINK_MARK, LEAVE: what belongs together, of those of one link_id */
	u64 counter; /* address of the u16 that is one more while the site has a link with it; 0: none.
		      * While the keeper takes it down, SHIM_COUNTER_TO_BE and what it is going to be */
};
SHIM_ASSERT(sizeof(struct shim_site_link) == 96);
enum { SHIM_COUNTER_BITS = 47, SHIM_COUNTER_SHIFT = 48 };
#define SHIM_COUNTER_ADDR ((1ull << SHIM_COUNTER_BITS) - 1)
#define SHIM_COUNTER_TO_BE (1ull << SHIM_COUNTER_BITS)

/* What the links of a site need of a lean entry: images that are SHIM_PROG_BARE, NOTHING; else C, to
 * make a struct shim_run; who looks at registers, all REGISTERS. */
enum { SHIM_NEEDS_NOTHING = 0, SHIM_NEEDS_REGISTERS = 1, SHIM_NEEDS_C = 2 };

struct shim_site {
	u64 addr; /* of the probed instruction; SHIM_EVENT_ADDR + number: an event; 0: free */
	u64 window; /* first patched byte */
	u64 tramp; /* trampoline, 0: none */
	u32 window_len;
	u32 first; /* index + 1 into links[], 0: none */
	u32 patched;
	u32 flags;
	u32 tramp_len;
	u32 host; /* index + 1 of the site that must be patched, or make room, before this one; 0: none */
	u8 orig[32];
	u8 patch[32];
	u64 func; /* probed function's entry: func_ip */
	u32 hits_dropped;
	u32 needs; /* the agent's: SHIM_NEEDS_* */
};
SHIM_ASSERT(sizeof(struct shim_site) == 128);

/* A program that this process runs itself: PROG_TEST_RUN, interval timers. */
struct shim_runnable {
	u32 live;
	u32 prog_id;
	u32 session;
	u32 flags;
	u64 image;
	u64 cookie;
};

/* Memory that the agent has mapped, for whoever takes the agent out of the process. */
enum { SHIM_MAX_OWNED = 4096, SHIM_NO_SESSION = 0xffffffff };
/* FILE: a session's. WINDOW: addresses for isolated programs (libbpf_shim/jit/window.py), in which
 * more is mapped later. */
enum { SHIM_OWNED_FILE = 1, SHIM_OWNED_WINDOW = 2 };
struct shim_owned {
	u64 addr;
	u64 len; /* 0: free */
	u32 session; /* index into sessions[], or SHIM_NO_SESSION */
	u32 shared; /* SHIM_OWNED_*: goes with the session */
};

/* Root of everything; symbol shim_agent_root of the library. Addresses are this process's. */
struct shim_agent {
	u32 magic;
	u32 version;
	u32 lock; /* 0 free; else tid of the holder */
	u32 pid; /* that filled this in; differs in a fork child until its first hit */
	u64 sites; /* struct shim_site[SHIM_MAX_SITES] */
	u64 links; /* struct shim_site_link[SHIM_MAX_SITE_LINKS] */
	u64 threads; /* struct shim_thread[4096], WIPEONFORK */
	u64 mailbox; /* struct shim_mailbox *, or 0 */
	u64 service_entry; /* where the keeper points a thread, see below */
	u64 service_frame; /* struct shim_service_frame * the keeper fills in first */
	u32 muted; /* a seccomp filter that the process was about to install minds calls of the agent's: it
		    * makes none any more, and runs nothing (agent/fence.c) */
	u32 key_bits; /* shim_keys.h: set where there is a key, and it then protects 'keyed' */
	u32 nr_sites; /* high-water marks */
	u32 nr_links;
	u32 nr_sessions;
	u32 nr_runnables;
	struct shim_session sessions[64];
	struct shim_runnable runnables[1024];
	u32 event_site[1600]; /* by event: index + 1 of the site that it has, 0: none */
	/* of an image that the keeper has mapped (SHIM_KP_INJECT); of a preloaded library 0 */
	u64 image; /* its first byte */
	u64 image_size;
	u32 kept; /* asked for by name: it stays when the last session has gone */
	u32 wanted; /* a keeper waits for the lock: until then (ms of CLOCK_MONOTONIC) no thread takes it
		     * that comes by itself. 0: none */
	struct shim_owned owned[4096];
	struct shim_call_region calls[128];
	u64 keyed; /* sessions whose memory is under the key: a bit an index */
	u32 masks; /* number of the time in which masks that threads have seen are known, never 0: another one
		    * begins when a link of SHIM_QUICK_LINK or SHIM_MASKS_LINK goes, whoever takes it (agent/quick.c) */
	u32 masked; /* links of SHIM_MASKS_LINK that there are, of all sessions */
};

/*
 * The self-restoring call. The keeper, with all threads stopped, writes the frame, then
 * sets one thread's rip to service_entry and rsp to the frame's address with a single
 * PTRACE_SETREGSET, orig_rax = -1. The service blocks signals, runs
 * agent_sync(path), makes the marker system call (membarrier with cmd SHIM_SERVICE_DONE,
 * which fails with EINVAL) and returns to 'resume' by iretq. The keeper may die at any
 * point. Resume registers are those the kernel would restart a system call with.
 */
enum { SHIM_SERVICE_DONE = 0x5348494d };

/* In the place of a socket's path: the service begins with a pair of sockets, and closes the second at once,
 * when the keeper, which sees the call end, has a copy of it. Before the marker it says one byte, and
 * waits for the end of that stream, which the keeper makes when it watches again. */
#define SHIM_PAIR "@"

struct shim_service_frame {
	u32 busy; /* 0 free; set by the keeper, cleared by the service */
	s32 result; /* of agent_sync: 0 or negative errno */
	u64 r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di;
	u64 ip, cs, flags, sp, ss; /* in iretq's order */
	u64 sigmask;
	char path[108]; /* session socket */
	u32 reason; /* SHIM_SYNC_* */
};

/* File $RUN/agents/PID, mapped shared by the agent: only where ptrace is refused. */
struct shim_mailbox {
	u32 magic;
	u32 version;
	u32 pid;
	u32 seq; /* futex: bumped by the backend, the helper thread waits on it */
	u32 done; /* last seq served; futex */
	s32 result;
	u64 start_time;
	char path[108]; /* of the socket to come to; "": to none */
	u32 tracer; /* which may trace the process from now on (PR_SET_PTRACER of Yama); 0: nobody new */
};

/* Order of the addresses in shim_agent_hello.syms. SHIM_SYM_HELPER0 + N is helper N of linux/bpf.h. */
enum {
	SHIM_SYM_ROOT = 0, /* &shim_agent_root */
	/* u64 agent_enter(struct shim_pt_regs *, struct shim_site *): on a stack that is aligned or not; registers
	 * that a call keeps are then as the first says, who still stands there. DL_CHANGE and THREAD too. */
	SHIM_SYM_ENTER = 1,
	SHIM_SYM_SERVICE = 2,
	SHIM_SYM_UNREACHABLE = 3, /* where a branch that the verifier proved dead lands */
	SHIM_SYM_DL_CHANGE = 4, /* u64 agent_dl_change(regs, site): the loader's link map changed */
	SHIM_SYM_THREAD = 5, /* u64 agent_thread_begins(regs, site): a thread begins */
	SHIM_SYM_ENTER_OWN = 6, /* ENTER for Go: rax site, rcx address, see rewrite/render.py */
	SHIM_SYM_ENTER_LEAN = 7, /* ENTER at a function's entry: rsi site, rdx address (lean.S) */
	SHIM_SYM_CALL_ENTER = 8, /* struct shim_calls: enter, leave, wanted */
	SHIM_SYM_CALL_EXIT = 9,
	SHIM_SYM_CALL_WANTED = 10,
	SHIM_SYM_MAPPED = 11, /* SHIM_SYNC_MAP: what became executable, [lo, hi) */
	SHIM_SYM_MAPPED_END = 12,
	SHIM_SYM_CALL_ENTER_OWN = 13, /* CALL_ENTER, CALL_EXIT for Go: on a stack of the agent's */
	SHIM_SYM_CALL_EXIT_OWN = 14,
	SHIM_SYM_CONTAINED = 15, /* what an isolated image calls in the place of an access elsewhere */
	SHIM_SYM_HELPER0 = 16,
	SHIM_SYM_WATCHED = 16 +
			   320, /* ENTER of a place of SHIM_QUICK_LINK (agent/quick.c), programs too */
	SHIM_SYM_MAX = 16 + 321,
};

#endif
