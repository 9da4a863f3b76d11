/*
 * Kernel functions that a process comes to by itself: of each system call the one that carries it
 * out, __x64_sys_NAME, behind its sys_enter and before its sys_exit. Kprobes there run on the
 * registers that this function is given: rdi leads to the application's, as the kernel has saved
 * them; what only the kernel knows (rip, rsp, callee-saved registers) is 0.
 *
 * bpf_override_return() skips the function: its result is the call's. Kprobes that are older than
 * the one that did it do not run, neither then nor at the return (kernel/kprobes.c,
 * aggr_pre_handler()). At a return it replaces the result.
 */
#include "func.h"

enum { KERNEL_CS = 0x10, KERNEL_SS = 0x18, FLAGS_IF = 0x246 };

static void kernel_regs(struct shim_pt_regs *k)
{
	agent_zero(k, sizeof(*k));
	k->orig_ax = ~0ull;
	k->cs = KERNEL_CS;
	k->ss = KERNEL_SS;
	k->flags = FLAGS_IF;
}

u32 agent_func_enter(u32 nr, struct shim_pt_regs *regs)
{
	struct shim_pt_regs k;
	u32 by;

	kernel_regs(&k);
	k.di = (u64)regs;
	by = agent_run_func(SHIM_EVENT_FUNC + nr, &k, regs, SHIM_LINK_ENTRY, 0);
	if (by)
		regs->ax = k.ax;
	return by;
}

void agent_func_return(u32 nr, struct shim_pt_regs *regs, u32 by)
{
	struct shim_pt_regs k;

	kernel_regs(&k);
	k.ax = regs->ax;
	agent_run_func(SHIM_EVENT_FUNC + nr, &k, regs, SHIM_LINK_RET, by);
	regs->ax = k.ax; /* bpf_override_return(); else what it was */
}
