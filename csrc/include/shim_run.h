/*
 * What one program run has in hand. An image is called as
 *
 *	u64 image(void *ctx, struct shim_run *run)
 *
 * by the System V convention; it passes 'run' on to every helper as the sixth
 * argument (r9), the five BPF arguments being rdi rsi rdx rcx r8.
 */
#ifndef SHIM_RUN_H
#define SHIM_RUN_H

#include "shim_types.h"

enum { SHIM_NO_VCPU = 0xffffffff };
enum { SHIM_RUN_SKIP = 1 << 16 }; /* the function is not to run: regs->ax is what it returns */

/* struct pt_regs of x86-64, as BPF_PROG_TYPE_KPROBE programs see it (asm/ptrace.h). */
struct shim_pt_regs {
	u64 r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags,
		sp, ss;
};
SHIM_ASSERT(sizeof(struct shim_pt_regs) == 168);

/* What a program of a perf event runs on: struct bpf_perf_event_data, and behind it when the event
 * began (CLOCK_MONOTONIC, ns). */
struct shim_perf_data {
	struct shim_pt_regs regs;
	u64 period, addr;
	u64 since;
};
SHIM_ASSERT(sizeof(struct shim_perf_data) == 192);

/* A thread's own scale of CLOCK_MONOTONIC (csrc/runtime/clock_own.c), which images read too
 * (libbpf_shim/jit/clocks.py). Changed by the thread alone; its signal handlers' runs may come in between
 * any two instructions. */
struct shim_clock {
	u64 tsc; /* where the scale begins, in cycles; 0: there is none now */
	u64 ns; /* the clock there, or somewhat less; both words change at once */
	u64 rate; /* ns of a cycle, the point before the low 32 bits */
	u64 last; /* the latest time that a program has had in this thread */
	u64 since_tsc; /* what the rate is measured from; both words change at once */
	u64 since_ns;
	u64 guess; /* the rate as measured last: not believed before the next one is the same; 0: none */
	u64 pad;
};
SHIM_ASSERT(sizeof(struct shim_clock) == 64);
enum { SHIM_CLOCK_CYCLES = 1 << 14 }; /* a scale is good for, from tsc on */

/* A thread as the agent knows it: found by fs base, without TLS. Lives in memory that
 * fork children find zeroed (MADV_WIPEONFORK). */
struct shim_thread {
	u64 fs_base; /* key; 0: free */
	u32 tid; /* of this process's thread, kernel's number */
	u32 tgid;
	u64 guard_sp; /* stack pointer of the run in progress; 0: none */
	u32 locks_held;
	u32 index; /* 1..4095: thread part of an owner word */
	u64 ret_block; /* return slots of this thread, or 0 */
	u64 outer_sp; /* guard_sp of the run that this one interrupted (signal handler); 0: none */
	u64 tid_word; /* address of the thread's own copy of tid (libc's), or 0 */
	u16 entry; /* of shim_ctl.vcpu, its own, by which it keeps a virtual CPU; or 0 */
	u16 entry_of; /* index of the session; entry is 0: 1 if none is to be had, else 0 */
	u32 runs; /* bumped at each outermost run: who waits for runs to end sees that one has */
	struct shim_clock clock;
};
SHIM_ASSERT(sizeof(struct shim_thread) == 128);

/* What a program that runs at entry and return of a function is told (bpf_session_is_return,
 * bpf_session_cookie). */
struct shim_both {
	u64 is_return;
	u64 cookie; /* the program's own, from the entry to the return */
};

/* A thread that cannot run the program itself, since it is being killed, or gone: another one runs
 * it in its name. thread.fs_base is 0, which tells it from a real one. */
struct shim_stand_in {
	struct shim_thread thread;
	char comm[16];
	u32 parent; /* its process */
	s32 exit_code; /* task->exit_code: status << 8 | signal | 0x80 if it dumps core */
	u64 start_time; /* clock ticks since boot, as /proc/PID/stat has it */
	u32 uid, gid;
};
SHIM_ASSERT(sizeof(struct shim_stand_in) == 168);

struct shim_run {
	u64 ctl; /* struct shim_ctl * of the program's session, in this process */
	u64 regs; /* struct shim_pt_regs *, or 0 where the event has none */
	u64 thread; /* struct shim_thread * */
	u64 cookie; /* bpf_get_attach_cookie() */
	u64 func_ip; /* bpf_get_func_ip() */
	u32 owner; /* owner word for locks in this session's maps */
	u32 vcpu; /* claimed virtual CPU, or SHIM_NO_VCPU */
	u32 prog_id;
	u32 tail_calls;
	u64 perf; /* perf area of the session, in this process */
	u64 perf_size;
	u64 scratch[4]; /* [3]: the agent's, stack to return to from SHIM_SYM_UNREACHABLE */
	u64 code; /* address of the original bytes at regs->ip, where a probe stands on them; or 0 */
	union {
		u64 packet; /* struct shim_packet * of a test run, or 0 */
		u64 held; /* struct shim_held * of an isolated program that needs one */
	};
	union {
		u64 both; /* struct shim_both *, or 0 */
		/* of a program whose instructions are counted: how many are left, see SHIM_FUNC_BUDGET_ENDED */
		s64 left;
	};
	u64 signal; /* when the run is over: number | 256 if to the thread, to be sent; SHIM_RUN_SKIP */
};
SHIM_ASSERT(sizeof(struct shim_run) == 136);

#endif
