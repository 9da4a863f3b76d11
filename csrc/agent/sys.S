/*
 * The hooks around a system call, as the trampolines of libbpf_shim/rewrite/callregion.py call them:
 * r11 is the address of the call's struct shim_call_site; rcx is what agent_sys_wanted says of it, and free.
 *
 * agent_call_enter: [rsp] return address, 128 bytes, then the application's stack. Gives back rcx 0,
 * or, if the call is to be skipped, rcx the address behind it, rax its result, and r11 as the
 * kernel would leave it. agent_call_exit: [rsp] return address, [rsp + 8] the application's r11, (8
 * bytes more where the window is shared,) 128 bytes. All else is as it was, the flags too.
 *
 * Offsets into struct shim_pt_regs (shim_run.h) are not needed: it is pushed member by member.
 */
#include "flags.inc"
#include "lean.inc"
#include "regs.inc"

/* Up to the run of the one link at a call (agent_sys_lean), whose number lies at rsp, above it what the record
 * of a tracepoint says, the flags 'at'. As sys.c, which has more to do in all other cases: then nothing has
 * been done, and r11 is the call's record still. */
.macro LEAN_HIT hook, at, slow, undone
	testl	$0x400, \at(%rsp)
	jnz	\slow				/* of directions */
	THREAD_HERE \slow
	mov	THREAD_INDEX(%r8), %r9d
	imul	$NOTES_SIZE, %r9, %r9
	add	agent_sys_notes(%rip), %r9
	mov	THREAD_TID(%r8), %r10d
	cmp	%r10, (%r9)
	jne	\slow				/* another's, or it is in the middle of something */
	GUARD_TAKE %rsp, \slow
	mov	agent_sys_lean(%rip), %rcx
	mov	LEAN_SITE + \hook(%rcx, %rax, 8), %rsi
	mov	\hook(%rcx, %rax, 8), %rcx
	cmpq	$1, LINK_LIVE(%rcx)		/* and no next one */
	jne	\undone
	testb	$CALL_BARE, LINK_LEAN + 1(%rcx)
	jz	\undone
	LINK_WANTED %rcx, \undone
	mov	THREAD_TID(%r8), %r9d
	shl	$32, %r9
	movzwl	SITE_FUNC(%rsi), %eax
	or	%rax, %r9
	push	%r9
	mov	%rsp, %rdi
	testb	$PROG_VCPU, LINK_FLAGS(%rcx)
	jnz	5f
	push	$-1				/* vcpu */
	push	SITE_FUNC(%rsi)
	push	LINK_COOKIE(%rcx)
	push	%r8
	lea	-RUN_THREAD(%rsp), %rsp
	mov	%rsp, %rsi
	call	*LINK_IMAGE(%rcx)
	mov	RUN_THREAD(%rsp), %rcx
	movq	$0, THREAD_GUARD(%rcx)
	lea	RUN_SIZE + 8(%rsp), %rsp
6:
.endm

/* LEAN_HIT of who wants a virtual CPU, apart. */
.macro LEAN_VCPU undone
5:	call	agent_vcpu_run
	lea	8(%rsp), %rsp
	jz	6b
	jmp	\undone
.endm

/* The flags, whose direction is forwards. Changes rax and rcx. */
.macro FLAGS_BACK at
	mov	\at(%rsp), %ecx
	mov	%cl, %ah
	shr	$11, %ecx
	and	$1, %ecx
	add	$127, %cl
	sahf
.endm

.macro PUSH_ARGS
	pushfq
	push	%r9
	push	%r8
	push	%r10
	push	%rdx
	push	%rsi
	push	%rdi
.endm

/* And the flags are passed by. */
.macro POP_ARGS
	pop	%rdi
	pop	%rsi
	pop	%rdx
	pop	%r10
	pop	%r8
	pop	%r9
	lea	8(%rsp), %rsp
.endm

	.text
	.globl	agent_call_enter
	.hidden	agent_call_enter
	.type	agent_call_enter, @function
agent_call_enter:
	lea	-BY_LEAN_HOOK(%rcx), %rcx
	jrcxz	2f
	jmp	.Lenter
2:	PUSH_ARGS
	push	%rax
	movzwl	CALL_NR(%r11), %ecx
	cmp	%rcx, %rax
	jne	3f
	LEAN_HIT 0, 56, 3f, 4f
	FLAGS_BACK 56
	pop	%rax
	POP_ARGS
	mov	$0, %ecx
	ret
	LEAN_VCPU 4f
4:	movq	$0, THREAD_GUARD(%r8)
3:	PUT_FLAGS_BACK 56(%rsp)
	pop	%rax
	POP_ARGS
.Lenter:
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
	lea	-BY_LEAN_HOOK(%rcx), %rcx
	jrcxz	2f
	jmp	.Lexit
2:	PUSH_ARGS
	push	%rax
	movzwl	CALL_NR(%r11), %eax
	push	%rax
	LEAN_HIT LEAN_EXIT, 64, 3f, 4f
	FLAGS_BACK 64
	lea	8(%rsp), %rsp
	pop	%rax
	POP_ARGS
	ret
	LEAN_VCPU 4f
4:	movq	$0, THREAD_GUARD(%r8)
3:	PUT_FLAGS_BACK 64(%rsp)
	lea	8(%rsp), %rsp
	pop	%rax
	POP_ARGS
.Lexit:
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
