/*
 * The hooks around a system call, as the trampolines of libbpf_shim/rewrite/callregion.py call them:
 * r11 is the address of the call's struct shim_call_site; rcx is free.
 *
 * agent_call_enter: [rsp] return address, 128 bytes, then the application's stack. Gives back rcx 0,
 * or, if the call is to be skipped, rcx the address behind it, rax its result, and r11 as the
 * kernel would leave it. agent_call_exit: [rsp] return address, [rsp + 8] the application's r11, (8
 * bytes more where the window is shared,) 128 bytes. All else is as it was, the flags too.
 *
 * Offsets into struct shim_pt_regs (shim_run.h) are not needed: it is pushed member by member.
 */
#include "flags.inc"
#include "regs.inc"

	.text
	.globl	agent_call_enter
	.hidden	agent_call_enter
	.type	agent_call_enter, @function
agent_call_enter:
	push	$0x2b			/* ss */
	lea	144(%rsp), %rcx
	push	%rcx			/* sp */
	pushfq
	push	$0x33			/* cs */
	movslq	(%r11), %rcx
	lea	(%rcx, %r11), %rcx
	push	%rcx			/* ip */
	push	%rax			/* orig_ax */
	push	%rdi
	push	%rsi
	push	%rdx
	push	%rcx
	push	$-38			/* ax: -ENOSYS */
	push	%r8
	push	%r9
	push	%r10
	push	88(%rsp)		/* r11: the flags */
	push	%rbx
	push	%rbp
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	mov	%rsp, %rdi
	mov	%r11, %rsi
	CLEAR_DIRECTION 144(%rsp)
	CALL_ALIGNED agent_gate_sys_enter
	test	%eax, %eax
	jnz	1f
	mov	120(%rsp), %rax		/* orig_ax */
	mov	%rax, 80(%rsp)
	movq	$0, 88(%rsp)
1:	PUT_FLAGS_BACK 144(%rsp)
	POP_REGS
	lea	48(%rsp), %rsp
	ret
	.size	agent_call_enter, . - agent_call_enter

	.globl	agent_call_exit
	.hidden	agent_call_exit
	.type	agent_call_exit, @function
agent_call_exit:
	push	$0x2b
	lea	152(%rsp), %rcx
	push	%rcx
	pushfq
	push	$0x33
	movslq	(%r11), %rcx
	lea	(%rcx, %r11), %rcx
	push	%rcx			/* ip */
	push	$-1			/* orig_ax: the hook knows it */
	push	%rdi
	push	%rsi
	push	%rdx
	push	%rcx
	push	%rax
	push	%r8
	push	%r9
	push	%r10
	push	120(%rsp)		/* r11 */
	push	%rbx
	push	%rbp
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	mov	%rsp, %rdi
	mov	%r11, %rsi
	CLEAR_DIRECTION 144(%rsp)
	CALL_ALIGNED agent_gate_sys_exit
	PUT_FLAGS_BACK 144(%rsp)
	POP_REGS
	lea	48(%rsp), %rsp
	ret
	.size	agent_call_exit, . - agent_call_exit

	.section .note.GNU-stack, "", @progbits
