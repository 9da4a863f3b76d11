/*
 * SHIM_SYM_ENTER_OWN: a hit where the application's stack may be too small for what follows: a
 * goroutine's. One of a fixed number of stacks (ownstack.c) is taken for the time of the hit; if
 * none is free, the hit is dropped and counted in the site.
 *
 * From a trampoline (rewrite/render.py): rax is the site, rcx the probed address, the
 * application's own rax and rcx lie above the return address. No more than 56 bytes of its stack
 * are used, and no red zone is kept: Go has none.
 */
#define SITE_DROPPED 120
#define STACK_SHIFT 15
#define USER_CS 0x33
#define USER_SS 0x2b

	.text
	.globl	agent_enter_own
	.hidden	agent_enter_own
	.type	agent_enter_own, @function
agent_enter_own:
	pushfq
	push	%rdx
	push	%rbx
	push	%r8
	cld
.Ltake:
	mov	agent_own_free(%rip), %rbx
	bsf	%rbx, %rdx
	jz	.Lnone
	lock btr %rdx, agent_own_free(%rip)
	jnc	.Ltake
	lea	1(%rdx), %r8
	shl	$STACK_SHIFT, %r8
	add	agent_own_stacks(%rip), %r8
	mov	%rsp, %rbx			/* r8 rbx rdx flags, return address, rcx rax */
	mov	%r8, %rsp
	/* struct shim_pt_regs */
	push	$USER_SS
	lea	56(%rbx), %r8
	push	%r8
	push	24(%rbx)
	push	$USER_CS
	push	%rcx
	push	$-1
	push	%rdi
	push	%rsi
	push	16(%rbx)
	push	40(%rbx)
	push	48(%rbx)
	push	(%rbx)
	push	%r9
	push	%r10
	push	%r11
	push	8(%rbx)
	push	%rbp
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	mov	%rsp, %rdi
	mov	%rax, %rsi
	push	%rdx				/* agent_enter keeps nothing */
	push	%rbx
	push	%rbx				/* a multiple of 16 */
	call	agent_enter
	pop	%rbx
	pop	%rbx
	pop	%rdx
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbp
	lea	8(%rsp), %rsp
	pop	%r11
	pop	%r10
	pop	%r9
	lea	32(%rsp), %rsp
	pop	%rsi
	pop	%rdi
	mov	%rbx, %rsp
	lock bts %rdx, agent_own_free(%rip)
.Lout:
	pop	%r8
	pop	%rbx
	pop	%rdx
	popfq
	ret
.Lnone:
	cmpl	$0, shim_key_bits(%rip)
	jne	.Lout				/* the table of sites is read-only: keys.c */
	lock incl SITE_DROPPED(%rax)
	jmp	.Lout
	.size	agent_enter_own, . - agent_enter_own

	.section .note.GNU-stack, "", @progbits
