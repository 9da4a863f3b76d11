/*
 * Return slots. A probed function is to return into a slot, which goes on to agent_ret_common; that
 * returns to where the function was called from. The trampoline of a lean entry takes the return
 * address away and jumps to the slot, whose call of the rest of the function puts the slot's address
 * in its place: so every return goes where the processor predicts it. Other trampolines have the
 * return address replaced, at the price of wrong predictions.
 *
 * Two words belong to slot S, at S + DIST: the original address, and where its call leads, in pages
 * that agent_ret_init maps writable over the rest of this section (what else ret.c keeps of a slot lies
 * behind them). So unwinders find the former by an expression alone: the frame is a signal frame ('S' distinguishes it from its neighbour, whose
 * CFA is the same), and the address given is one less, so that look-ups stay inside the call
 * instruction. Inside a slot, bit 3 of the address tells whether the word is on the stack again.
 *
 * A return leaves the word on the stack as it was, and the slot takes it back: while that word is
 * inside the slot, the invocation is not over, on whatever stack it is and whoever asks. It is given
 * up first, then the word changes.
 */
#include "lean.inc"

#define SLOTS RET_SLOTS_
#define RETURN RET_RETURN
#define DIST RET_DIST
#define OWNERS (2 * DIST)	/* from a slot to its word in agent_ret_owners, ret.c */
#define ENTRIES (3 * DIST)

	.section .shim_slots, "ax", @progbits
	.balign	4096
	.globl	agent_ret_common
	.hidden	agent_ret_common
	.type	agent_ret_common, @function
agent_ret_common:
	.cfi_startproc simple
	.cfi_signal_frame
	.cfi_def_cfa rsp, 8
	/* RA = *((*(CFA - 8) & -16) + DIST) - 1 */
	.cfi_escape 0x16, 16, 15, 0x38, 0x1c, 0x06, 0x09, 0xf0, 0x1a, 0x0c, 0x00, 0x00, 0x04, 0x00, 0x22, 0x06, 0x31, 0x1c
	sub	$168, %rsp
	.cfi_adjust_cfa_offset 168
	mov	%r11, 48(%rsp)
	mov	%r10, 56(%rsp)
	mov	%r9, 64(%rsp)
	mov	%r8, 72(%rsp)
	mov	%rax, 80(%rsp)
	mov	%rcx, 88(%rsp)
	mov	%rdx, 96(%rsp)
	mov	%rsi, 104(%rsp)
	mov	%rdi, 112(%rsp)

	/* The usual one, as agent_return() has it: one link at the return, whose image calls nothing, and
	 * one at the entry at most. */
	mov	168(%rsp), %rax			/* in the slot */
	lea	168(%rsp), %rcx
	cmp	%rcx, OWNERS - RETURN(%rax)
	jne	slowly
	lea	agent_ret_slots(%rip), %r9
	mov	OWNERS - RETURN + 8(%rax), %rdx
	mov	%rdx, 128(%rsp)			/* ip */
	sub	%r9, %rdx
	cmp	$DIST, %rdx
	jb	slowly				/* a slot too: by a tail call */
	mov	ENTRIES - RETURN(%rax), %rsi	/* the site */
	testb	$RET_BARE, SITE_FLAGS(%rsi)
	jz	slowly
	THREAD_HERE slowly
	mov	THREAD_RET(%r8), %rdx
	test	%rdx, %rdx
	jz	slowly
	mov	BLOCK_HINT(%rdx), %r9
	xor	%rax, %r9
	cmp	$RET_BLOCK_BYTES - 1, %r9
	ja	slowly				/* of another thread's block, or a shared one */
	GUARD_TAKE %rsp, slowly
	lea	-RETURN(%rax), %r9
	mov	%r9, BLOCK_HINT(%rdx)		/* the next call finds it, still in the cache */
	mov	ENTRIES - RETURN + 8(%rax), %rdx
	cmp	%rdx, SITE_ADDR(%rsi)		/* table.c: from here on it stays */
	jne	undone
	FIRST_LINK undone
	cmpq	$1, LINK_LIVE(%rcx)
	jne	2f				/* there is another one, or it is not live */
1:	cmpl	$BARE_RET, LINK_LEAN(%rcx)
	jne	undone
	LINK_WANTED %rcx, undone
	testb	$PROG_VCPU, LINK_FLAGS(%rcx)
	jnz	6f
	BARE_RUN 0
3:	mov	168(%rsp), %rdx
	mov	128(%rsp), %rax
	/* as below */
	.cfi_remember_state
	.cfi_escape 0x16, 16, 6, 0x08, 0x30, 0x1c, 0x06, 0x31, 0x1c
	movq	$0, OWNERS - RETURN(%rdx)	/* nobody takes one whose address stands where it should */
	mov	%rax, 168(%rsp)
	mov	48(%rsp), %r11
	mov	56(%rsp), %r10
	mov	64(%rsp), %r9
	mov	72(%rsp), %r8
	mov	80(%rsp), %rax
	mov	88(%rsp), %rcx
	mov	96(%rsp), %rdx
	mov	104(%rsp), %rsi
	mov	112(%rsp), %rdi
	add	$168, %rsp
	.cfi_adjust_cfa_offset -168
	ret
	.cfi_restore_state
6:	mov	%rsp, %rdi
	call	agent_vcpu_run
	jz	3b
	jmp	undone
2:	mov	LINK_NEXT(%rcx), %edi
	test	%edi, %edi
	jz	undone
	LINK_AT	%rdi
	cmpl	$0, LINK_NEXT(%rdi)
	jne	undone
	testb	$RET, LINK_LEAN(%rcx)
	jnz	4f
	xchg	%rdi, %rcx
4:	cmpl	$1, LINK_LIVE(%rcx)
	jne	undone
	testb	$ENTRY, LINK_LEAN(%rdi)
	jnz	1b
undone:
	movq	$0, THREAD_GUARD(%r8)
slowly:
	mov	%rbx, 40(%rsp)
	.cfi_offset rbx, -136
	mov	%rsp, %rbx
	.cfi_def_cfa_register rbx
	mov	%r15, (%rbx)
	mov	%r14, 8(%rbx)
	mov	%r13, 16(%rbx)
	mov	%r12, 24(%rbx)
	mov	%rbp, 32(%rbx)
	movq	$-1, 120(%rbx)
	movq	$0x33, 136(%rbx)
	movq	$0x202, 144(%rbx)	/* flags are dead at a return */
	lea	176(%rbx), %rax
	mov	%rax, 152(%rbx)
	movq	$0x2b, 160(%rbx)
	mov	%rbx, %rdi
	mov	168(%rbx), %rsi
	and	$-16, %rsp
	cld
	call	agent_gate_return
	/* The slot may be another's as soon as it is given up: from here on, to the end, unwinders find
	 * the address in this frame, in the place of ip. RA = *(CFA - 48) - 1 */
	.cfi_escape 0x16, 16, 6, 0x08, 0x30, 0x1c, 0x06, 0x31, 0x1c
	mov	168(%rbx), %rdx
	lea	168(%rbx), %rcx
	cmp	%rcx, OWNERS - RETURN(%rdx)
	jne	5f
	movq	$0, OWNERS - RETURN(%rdx)
5:	mov	%rax, 168(%rbx)
	mov	88(%rbx), %rcx
	mov	96(%rbx), %rdx
	mov	104(%rbx), %rsi
	mov	112(%rbx), %rdi
	mov	72(%rbx), %r8
	mov	64(%rbx), %r9
	mov	56(%rbx), %r10
	mov	48(%rbx), %r11
	mov	80(%rbx), %rax
	mov	%rbx, %rsp
	.cfi_def_cfa_register rsp
	mov	40(%rsp), %rbx
	.cfi_same_value rbx
	add	$168, %rsp
	.cfi_adjust_cfa_offset -168
	ret
	.cfi_endproc
	.size	agent_ret_common, . - agent_ret_common

	.balign	4096, 0x90
	.skip	4088, 0x90
	.cfi_startproc simple
	.cfi_signal_frame
	/* CFA = rsp + (rip & 8) */
	.cfi_escape 0x0f, 7, 0x77, 0x00, 0x80, 0x00, 0x38, 0x1a, 0x22
	/* RA = *((rip & -16) + DIST) - 1 */
	.cfi_escape 0x16, 16, 14, 0x80, 0x00, 0x09, 0xf0, 0x1a, 0x0c, 0x00, 0x00, 0x04, 0x00, 0x22, 0x06, 0x31, 0x1c
	.skip	8, 0x90
	.globl	agent_ret_slots
	.hidden	agent_ret_slots
	.type	agent_ret_slots, @function
agent_ret_slots:
	.rept	SLOTS
	call	*DIST + 8 - RETURN(%rip)
	lea	-8(%rsp), %rsp
	jmp	agent_ret_common
	.endr
	.cfi_endproc
	.size	agent_ret_slots, . - agent_ret_slots

	.globl	agent_ret_table
	.hidden	agent_ret_table
	.type	agent_ret_table, @object
agent_ret_table:
	.skip	SLOTS * 16, 0
	.size	agent_ret_table, . - agent_ret_table

	.globl	agent_ret_owners
	.hidden	agent_ret_owners
	.type	agent_ret_owners, @object
agent_ret_owners:
	.skip	SLOTS * 16, 0
	.size	agent_ret_owners, . - agent_ret_owners

	.globl	agent_ret_entries
	.hidden	agent_ret_entries
	.type	agent_ret_entries, @object
agent_ret_entries:
	.skip	SLOTS * 16, 0
	.size	agent_ret_entries, . - agent_ret_entries

	.section .note.GNU-stack, "", @progbits
