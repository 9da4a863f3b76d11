/*
 * The hooks around a system call of a Go program, whose stack has no room for them: as
 * agent_call_enter and agent_call_exit (sys.S), on one of the stacks of ownstack.c, and no red zone
 * is kept: Go has none. No more than 56 bytes of the application's stack are used.
 *
 * agent_call_enter_own: [rsp] return address, then the application's stack. agent_call_exit_own:
 * [rsp] return address, [rsp + 8] the application's r11, (8 bytes more where the window is shared).
 *
 * If no stack is free, others are let run; if none comes free, the hook is left out.
 */
#define STACK_SHIFT 15
#define PATIENCE 1000
#define NR_YIELD 24

/* Takes a stack: rdx its number; rsp on it; rcx the application's stack: rdx, flags, return address.
 * r11 is the call's record, and stays. */
	.macro	TAKE_STACK lost
	pushfq
	push	%rdx
	push	$PATIENCE
77:	mov	agent_own_free(%rip), %rcx
	bsf	%rcx, %rdx
	jnz	78f
	decl	(%rsp)
	jz	\lost
	push	%rax
	push	%r11
	mov	$NR_YIELD, %eax
	syscall
	pop	%r11
	pop	%rax
	jmp	77b
78:	lock btr %rdx, agent_own_free(%rip)
	jnc	77b
	lea	8(%rsp), %rsp
	lea	1(%rdx), %rcx
	shl	$STACK_SHIFT, %rcx
	add	agent_own_stacks(%rip), %rcx
	xchg	%rsp, %rcx
	.endm

/* The last of struct shim_pt_regs, from r8 on. \rdx: where that is, from the application's stack
 * pointer, which rcx is; above it are the flags. */
	.macro	PUSH_REGS rdx, orig_ax, ax, r11
	push	%rcx
	push	\rdx+8(%rcx)
	push	$0x33
	push	%r11			/* ip, below */
	push	\orig_ax
	push	%rdi
	push	%rsi
	push	\rdx(%rcx)
	push	%r11			/* cx, below */
	push	\ax
	push	%r8
	push	%r9
	push	%r10
	push	\r11(%rcx)
	push	%rbx
	push	%rbp
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	movslq	(%r11), %rbx		/* the address behind the call */
	add	%r11, %rbx
	mov	%rbx, 128(%rsp)
	mov	%rbx, 88(%rsp)
	mov	%rsp, %rdi
	mov	%r11, %rsi
	mov	%rsp, %rbp
	mov	%rdx, %r12
	and	$-16, %rsp
	cld
	.endm

/* All but rax, rcx, rdx and r11, which are dead now or come from elsewhere: rdx the stack's number,
 * rcx the application's stack pointer, r11 the address behind the call. */
	.macro	POP_REGS
	mov	%rbp, %rsp
	mov	%r12, %rdx
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbp
	pop	%rbx
	lea	8(%rsp), %rsp
	pop	%r10
	pop	%r9
	pop	%r8
	lea	24(%rsp), %rsp
	pop	%rsi
	pop	%rdi
	mov	8(%rsp), %r11
	mov	32(%rsp), %rcx
	.endm

	.text
	.globl	agent_call_enter_own
	.hidden	agent_call_enter_own
	.type	agent_call_enter_own, @function
agent_call_enter_own:
	TAKE_STACK .Llost
	push	$0x2b
	lea	24(%rcx), %rcx
	PUSH_REGS -24, %rax, $-38, -16
	call	agent_gate_sys_enter
	test	%eax, %eax
	mov	80(%rbp), %rax		/* ax: the result of a call that is skipped */
	jnz	.Lskip
	mov	120(%rbp), %rax		/* orig_ax */
	POP_REGS
	lea	-24(%rcx), %rsp
	lock bts %rdx, agent_own_free(%rip)
	xor	%ecx, %ecx
	pop	%rdx
	popfq
	ret
.Lskip:
	POP_REGS
	lea	-24(%rcx), %rsp
	lock bts %rdx, agent_own_free(%rip)
	mov	%r11, %rcx
	mov	8(%rsp), %r11		/* as the kernel leaves it: the flags */
	pop	%rdx
	popfq
	ret
.Llost:
	lea	8(%rsp), %rsp
	xor	%ecx, %ecx
	pop	%rdx
	popfq
	ret
	.size	agent_call_enter_own, . - agent_call_enter_own

	.globl	agent_call_exit_own
	.hidden	agent_call_exit_own
	.type	agent_call_exit_own, @function
agent_call_exit_own:
	TAKE_STACK .Llost_exit
	push	$0x2b
	lea	32(%rcx), %rcx
	PUSH_REGS -32, $-1, %rax, -8
	call	agent_gate_sys_exit
	mov	80(%rbp), %rax
	POP_REGS
	lea	-32(%rcx), %rsp
	lock bts %rdx, agent_own_free(%rip)
	pop	%rdx
	popfq
	ret
.Llost_exit:
	lea	8(%rsp), %rsp
	pop	%rdx
	popfq
	ret
	.size	agent_call_exit_own, . - agent_call_exit_own

	.section .note.GNU-stack, "", @progbits
