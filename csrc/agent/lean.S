/*
 * SHIM_SYM_ENTER_LEAN: a hit at a function's entry, from a trampoline (rewrite/render.py) that has
 * saved what a call may change, at its place in a struct shim_pt_regs at 8(%rsp): rsi is the site,
 * rdx the probed address, rax where the trampoline goes on. The answer is where it is to go in its
 * place (a return slot), or 0. Where a program looks at its context the rest is put there too, and what
 * it leaves in there is what the application goes on with.
 */
#define SITE_WHOLE 124
#define USER_CS 0x33
#define USER_SS 0x2b

	.text
	.globl	agent_enter_lean
	.hidden	agent_enter_lean
	.type	agent_enter_lean, @function
	.p2align 5
agent_enter_lean:
	mov	SITE_WHOLE(%rsi), %ecx
	lea	8(%rsp), %rdi
	jecxz	agent_hit_lean_			/* the flags are the application's still */
	pushfq
	pop	144(%rdi)
	mov	%r15, (%rdi)
	mov	%r14, 8(%rdi)
	mov	%r13, 16(%rdi)
	mov	%r12, 24(%rdi)
	mov	%rbp, 32(%rdi)
	mov	%rbx, 40(%rdi)
	movq	$-1, 120(%rdi)
	mov	%rdx, 128(%rdi)
	movq	$USER_CS, 136(%rdi)
	lea	168(%rdi), %rcx
	mov	%rcx, 152(%rdi)
	movq	$USER_SS, 160(%rdi)
	mov	%rdi, %rbx
	mov	%rax, %rdx
	call	agent_hit
	mov	(%rbx), %r15
	mov	8(%rbx), %r14
	mov	16(%rbx), %r13
	mov	24(%rbx), %r12
	mov	32(%rbx), %rbp
	mov	40(%rbx), %rbx
	ret
agent_hit_lean_:
	mov	%rax, %rcx
	jmp	agent_hit_lean
	.size	agent_enter_lean, . - agent_enter_lean

	.section .note.GNU-stack, "", @progbits
