/*
 * SHIM_SYM_ENTER_LEAN: a hit at a function's entry, from a trampoline (rewrite/render.py) that has
 * saved what a call may change, at its place in a struct shim_pt_regs at 8(%rsp): rsi is the site,
 * rdx the probed address, rax where the trampoline goes on. The answer is where it is to go in its
 * place (a return slot), or 0. Where a program looks at its context the rest is put there too, and what
 * it leaves in there is what the application goes on with.
 *
 * Of a site with one link at the entry, one at the return, or one at each, the usual hit is here;
 * all else is left to hit.c, as if nothing had been.
 */
#include "lean.inc"

#define USER_CS 0x33
#define USER_SS 0x2b
#define APP_SP 176

/* agent_ret_push() of the slot that is free next, in rax then; where it fails nothing has been done.
 * Keeps rcx, rdx, rsi, r8. */
.macro SLOT_PUSH slow
	mov	THREAD_RET(%r8), %r9
	test	%r9, %r9
	jz	\slow
	mov	BLOCK_HINT(%r9), %r10		/* the slot */
	test	%r10, %r10
	jz	\slow
	cmpq	$0, 2 * RET_DIST(%r10)
	jne	\slow
	lea	RET_SLOT_(%r10), %rdi
	test	$RET_BLOCK_BYTES - RET_SLOT_, %edi
	jz	\slow				/* the block's last one */
	mov	%rdi, BLOCK_HINT(%r9)
	lea	agent_ret_slots(%rip), %rdi
	mov	APP_SP(%rsp), %r9		/* where the function was called from */
	mov	%r9, %r11
	sub	%rdi, %r11
	cmp	$RET_DIST, %r11
	jb	\slow				/* a slot too: by a tail call */
	mov	%rax, %r11
	lea	APP_SP + 1(%rsp), %rdi		/* CLAIMED */
	xor	%eax, %eax
	cmpxchg	%rdi, 2 * RET_DIST(%r10)
	jne	3f
	mov	%r9, 2 * RET_DIST + 8(%r10)
	mov	%r11, RET_DIST + 8(%r10)
	mov	%rsi, 3 * RET_DIST(%r10)
	mov	%rdx, 3 * RET_DIST + 8(%r10)
	mov	%r9, RET_DIST(%r10)
	lea	RET_RETURN(%r10), %rax
	mov	%rax, APP_SP(%rsp)
	dec	%rdi
	mov	%rdi, 2 * RET_DIST(%r10)
	mov	%r10, %rax
.endm

	.text
	.globl	agent_enter_lean
	.hidden	agent_enter_lean
	.type	agent_enter_lean, @function
	.p2align 5
agent_enter_lean:
	mov	SITE_NEEDS(%rsi), %ecx
	jecxz	1f				/* the flags are the application's still */
	lea	-NEEDS_C(%rcx), %ecx
	jecxz	5f
	jmp	agent_enter_whole
5:	jmp	agent_enter_full
1:	THREAD_HERE agent_enter_slowly
	GUARD_TAKE %rsp, agent_enter_slowly
	cmp	SITE_ADDR(%rsi), %rdx		/* table.c: from here on it stays */
	jne	agent_enter_undone
	FIRST_LINK agent_enter_undone
	cmpq	$1, LINK_LIVE(%rcx)
	jne	2f				/* there is another one, or it is not live */
	testb	$RET, LINK_LEAN(%rcx)
	jnz	6f
	testb	$BARE, LINK_LEAN(%rcx)
	jz	agent_enter_undone
	LINK_WANTED %rcx, agent_enter_undone
	testb	$PROG_VCPU, LINK_FLAGS(%rcx)
	jnz	7f
	BARE_RUN 8
	xor	%eax, %eax
	ret
7:	mov	%rax, %r11
	lea	8(%rsp), %rdi
	call	agent_vcpu_run
	jnz	3f
	xor	%eax, %eax
	ret
	/* two: rcx that of the entry, rdi that of the return */
2:	mov	LINK_NEXT(%rcx), %edi
	test	%edi, %edi
	jz	agent_enter_undone
	LINK_AT	%rdi
	cmpq	$1, LINK_LIVE(%rdi)
	jne	agent_enter_undone
	cmpl	$1, LINK_LIVE(%rcx)
	jne	agent_enter_undone
	testb	$RET, LINK_LEAN(%rdi)
	jnz	4f
	xchg	%rdi, %rcx
	testb	$RET, LINK_LEAN(%rdi)
	jz	agent_enter_undone
4:	testb	$RET, LINK_LEAN(%rcx)
	jnz	agent_enter_undone
	testb	$BARE, LINK_LEAN(%rcx)
	jz	agent_enter_undone
	testb	$PROG_VCPU, LINK_FLAGS(%rcx)
	jnz	agent_enter_undone
	LINK_ENABLED %rdi, agent_enter_undone
	LINK_WANTED %rcx, agent_enter_undone
	/* the push comes first, which an image that calls nothing cannot see: behind it nothing fails */
	SLOT_PUSH	agent_enter_undone
	push	%rax
	BARE_RUN 16
	pop	%rax
	ret
6:	LINK_ENABLED %rcx, agent_enter_undone
	SLOT_PUSH	agent_enter_undone
	movq	$0, THREAD_GUARD(%r8)
	ret
3:	mov	%r11, %rax
agent_enter_undone:
	movq	$0, THREAD_GUARD(%r8)
agent_enter_slowly:
	lea	8(%rsp), %rdi
	mov	%rax, %rcx
	jmp	agent_gate_hit_lean

/* one link at the entry, whose image may call anything */
agent_enter_full:
	testb	$SITE_RUN, SITE_FLAGS + 1(%rsi)
	jz	agent_enter_slowly
	THREAD_HERE agent_enter_slowly
	GUARD_TAKE %rsp, agent_enter_slowly
	cmp	SITE_ADDR(%rsi), %rdx
	jne	agent_enter_undone
	ONLY_LINK RUN_LEAN, agent_enter_undone
	mov	%rax, %rdx
	lea	8(%rsp), %rdi
	mov	%rdi, %r11
	call	agent_full_run
	jnz	1f
	ret
1:	mov	%rdx, %rax
	mov	SITE_ADDR(%rsi), %rdx
	jmp	agent_enter_undone

agent_enter_whole:
	lea	8(%rsp), %rdi
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
	mov	%rax, %rdx
	jmp	agent_enter_regs
	.size	agent_enter_lean, . - agent_enter_lean

/* A function is left out: a trampoline's registers are back, rax is what the function returns, and its
 * return address lies below the stack pointer (rewrite/render.py, out). */
	.globl	agent_skip
	.hidden	agent_skip
	.type	agent_skip, @function
	.p2align 4
agent_skip:
	.cfi_startproc
	.cfi_def_cfa_offset 0
	lea	-8(%rsp), %rsp
	.cfi_def_cfa_offset 8
	ret
	.cfi_endproc
	.size	agent_skip, . - agent_skip

/* What a bare image is told but for its virtual CPU, and its call. rax, then rcx: what says that it is in a run. */
.macro VCPU_RUN
	mov	%rax, RUN_CTL(%rsp)		/* which is its own here */
	mov	%r8, RUN_THREAD(%rsp)
	mov	LINK_COOKIE(%rcx), %r9
	mov	%r9, RUN_COOKIE(%rsp)
	mov	SITE_FUNC(%rsi), %r9
	mov	%r9, RUN_FUNC(%rsp)
	mov	%rsp, %rsi
	call	*LINK_IMAGE(%rcx)
	mov	RUN_CTL(%rsp), %rcx
.endm

/* BARE_RUN of a link that wants a virtual CPU; r10 is its session's control page, rdi the context. Zero is in
 * the flags; else there was none at the first try, and all but rax, r9 and r10 is as it was. */
	.globl	agent_vcpu_run
	.hidden	agent_vcpu_run
	.type	agent_vcpu_run, @function
	.p2align 5
agent_vcpu_run:
	.cfi_startproc
	sub	$RUN_SIZE, %rsp
	.cfi_adjust_cfa_offset RUN_SIZE
	VCPU_KEPT RUN_VCPU(%rsp), 1f, 3f
	VCPU_RUN
2:	movl	$0, (%rcx)
4:	mov	RUN_THREAD(%rsp), %rax
	movq	$0, THREAD_GUARD(%rax)
	add	$RUN_SIZE, %rsp
	.cfi_remember_state
	.cfi_adjust_cfa_offset -RUN_SIZE
	cmp	%eax, %eax
	ret
	.cfi_restore_state
1:	mov	LINK_SESSION(%rcx), %r9d
	and	$MAX_SESSIONS - 1, %r9d
	imul	$SESSION_SIZE, %r9d, %r9d
	lea	shim_agent_root + ROOT_SESSIONS(%rip), %rax
	mov	SESSION_OWNER(%rax, %r9), %r9d
	test	%r9d, %r9d
	jz	3f
	or	THREAD_INDEX(%r8), %r9d
	mov	%r9d, RUN_OWNER(%rsp)
	VCPU_CLAIM RUN_VCPU(%rsp), 3f
	VCPU_RUN
	mov	RUN_OWNER(%rsp), %edx
	cmp	%edx, (%rcx)
	je	2b
	jmp	4b
3:	add	$RUN_SIZE, %rsp			/* no zero */
	.cfi_adjust_cfa_offset -RUN_SIZE
	ret
	.cfi_endproc
	.size	agent_vcpu_run, . - agent_vcpu_run

	.section .rodata
	.balign	8
agent_lean_hash:
	.globl	agent_lean_hash
	.hidden	agent_lean_hash
	.quad	0x9e3779b97f4a7c15

	/* what makes hits look more closely: in one word for lean.inc */
	.bss
	.balign	8
agent_unusual:
	.globl	agent_unusual, agent_vforks, agent_fences
	.hidden	agent_unusual, agent_vforks, agent_fences
agent_vforks:
	.skip	4
agent_fences:
	.skip	4

	.section .note.GNU-stack, "", @progbits
