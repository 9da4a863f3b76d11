/*
 * Hits by images that call helpers or look at registers, of a site with one link, at the entry, that
 * walks no stacks (AGENT_RUN). The same as hit.c does, to which all else is left, before anything has
 * been done. An image that ends by agent_unreachable keeps nothing but rsp, which never passes through memory
 * or another register where that is not needed: the application's next instructions would wait for it.
 */
#include "lean.inc"

#define OWN_STACKS 0x200000
#define RUN_FRAME (RUN_FULL + 8)

/* Of the words of a struct shim_run, the last one first. */
.macro PUSH_WORD what:vararg
	push	\what
	.cfi_adjust_cfa_offset 8
.endm

/* What a run is told whose image's helpers only read, but for the registers' address; the run is in rsi then. */
.macro RUN_READS
	mov	%r10, RUN_CTL(%rsp)
	mov	%r8, RUN_THREAD(%rsp)
	mov	LINK_COOKIE(%rcx), %r9
	mov	%r9, RUN_COOKIE(%rsp)
	mov	SITE_FUNC(%rsi), %r9
	mov	%r9, RUN_FUNC(%rsp)
	movl	$-1, RUN_VCPU(%rsp)
	mov	%rsp, %rsi
	mov	%rsp, RUN_SCRATCH + 24(%rsp)
.endm

/* A run on a stack that is aligned with so many bytes more. */
.macro QUICK_RUN more
	PUSH_WORD $-1				/* vcpu; whose it would be is not looked at */
	PUSH_WORD SITE_FUNC(%rsi)
	PUSH_WORD LINK_COOKIE(%rcx)
	PUSH_WORD %r8
	PUSH_WORD %rdi
	PUSH_WORD %r10
	mov	%rsp, %rsi
	mov	%rsp, RUN_SCRATCH + 24(%rsp)
	call	*LINK_IMAGE(%rcx)
	mov	RUN_THREAD(%rsp), %rcx
	movq	$0, THREAD_GUARD(%rcx)
	add	$RUN_FRAME + 8 + \more, %rsp
	.cfi_adjust_cfa_offset -(RUN_FRAME + 8 + \more)
	xor	%eax, %eax
	ret
.endm

/* What a program may have changed of its context's, or an image has not kept; the rest is a trampoline's. */
.macro REGS_BACK
	mov	(%rdi), %r15
	mov	8(%rdi), %r14
	mov	16(%rdi), %r13
	mov	24(%rdi), %r12
	mov	32(%rdi), %rbp
	mov	40(%rdi), %rbx
.endm

	.text
/* SHIM_SYM_ENTER: u64 agent_enter(struct shim_pt_regs *regs, struct shim_site *site); and with body, as
 * agent_hit() has it. */
	.globl	agent_enter, agent_enter_regs
	.hidden	agent_enter, agent_enter_regs
	.type	agent_enter, @function
	.type	agent_enter_regs, @function
	.p2align 5
agent_enter:
	xor	%edx, %edx
agent_enter_regs:
	.cfi_startproc
	testb	$SITE_RUN, SITE_FLAGS + 1(%rsi)
	jz	in_c
	THREAD_HERE in_c
	mov	REGS_SP(%rdi), %rax
	GUARD_TAKE %rax, in_c
	mov	REGS_IP(%rdi), %rax
	cmp	SITE_ADDR(%rsi), %rax		/* table.c: from here on it stays */
	jne	undone
	FIRST_LINK undone
	cmpq	$1, LINK_LIVE(%rcx)		/* and no next one */
	jne	undone
	testb	$RUN_QUICK, LINK_LEAN + 1(%rcx)
	jz	other
	LINK_WANTED %rcx, undone
	/* as agent_full_run, but for the call: most of what looks at registers, and USDT's */
	sub	$RUN_FRAME + 8 - RUN_SIZE, %rsp
	.cfi_adjust_cfa_offset RUN_FRAME + 8 - RUN_SIZE
	.cfi_remember_state
	test	$15, %spl
	jnz	aside
	QUICK_RUN 0
	.cfi_restore_state
aside:
	.cfi_remember_state
	test	$7, %spl
	jnz	odd_stack
	lea	-8(%rsp), %rsp
	.cfi_adjust_cfa_offset 8
	QUICK_RUN 8
	.cfi_restore_state
odd_stack:
	add	$RUN_FRAME + 8 - RUN_SIZE, %rsp
	.cfi_adjust_cfa_offset -(RUN_FRAME + 8 - RUN_SIZE)
	jmp	whole
other:
	testb	$RUN, LINK_LEAN(%rcx)
	jz	undone
	LINK_WANTED %rcx, undone
whole:
	mov	%rdi, %r11
	testb	$RUN_KEEPS, LINK_LEAN + 1(%rcx)
	jz	spoils
	call	agent_full_run
	jnz	undone
	ret
spoils:
	PUSH_WORD %rdi
	PUSH_WORD %rdi
	call	agent_full_run
	pop	%rdi
	.cfi_adjust_cfa_offset -8
	pop	%rdi
	.cfi_adjust_cfa_offset -8
	jnz	undone
	REGS_BACK
	ret
undone:
	movq	$0, THREAD_GUARD(%r8)
in_c:
	lea	agent_gate_hit(%rip), %rax
aligned:
	mov	%rsp, %r11
	.cfi_def_cfa_register r11
	and	$-16, %rsp
	push	%rdi
	push	%r11
	/* CFA = *rsp + 8 */
	.cfi_escape 0x0f, 5, 0x77, 0, 0x06, 0x23, 8
	call	*%rax
	mov	8(%rsp), %rdi
	mov	(%rsp), %rsp
	.cfi_def_cfa rsp, 8
	REGS_BACK
	ret
	.cfi_endproc
	.size	agent_enter_regs, . - agent_enter_regs
	.size	agent_enter, . - agent_enter

/* SHIM_SYM_DL_CHANGE, SHIM_SYM_THREAD: functions in C, whose trampolines align no stack. */
	.globl	agent_enter_dl_change, agent_enter_thread
	.hidden	agent_enter_dl_change, agent_enter_thread
	.type	agent_enter_dl_change, @function
	.type	agent_enter_thread, @function
agent_enter_dl_change:
	lea	agent_gate_dl_change(%rip), %rax
	jmp	aligned
	.size	agent_enter_dl_change, . - agent_enter_dl_change
agent_enter_thread:
	lea	agent_gate_thread_begins(%rip), %rax
	jmp	aligned
	.size	agent_enter_thread, . - agent_enter_thread

	.globl	agent_enter_watched
	.hidden	agent_enter_watched
	.type	agent_enter_watched, @function
agent_enter_watched:
	lea	agent_quick_enter(%rip), %rax
	jmp	aligned
	.size	agent_enter_watched, . - agent_enter_watched

/* void agent_run_event_of(struct shim_thread *t, struct shim_site *site, void *ctx, struct shim_pt_regs *regs),
 * for C: what may not end by itself is agent_run_event_in_c's. */
	.globl	agent_run_event_of
	.hidden	agent_run_event_of
	.type	agent_run_event_of, @function
	.p2align 5
agent_run_event_of:
	.cfi_startproc
	testb	$SITE_RUN, SITE_FLAGS + 1(%rsi)
	jz	agent_run_event_in_c
	mov	%rsp, %rax
	sub	agent_own_stacks(%rip), %rax
	cmp	$OWN_STACKS, %rax
	jb	agent_run_event_in_c		/* agent_app_sp() */
	cmpq	$0, agent_unusual(%rip)
	jne	agent_run_event_in_c
	mov	%rdi, %r8
	GUARD_TAKE %rsp, agent_run_event_in_c
	mov	%rdx, %rdi
	mov	%rcx, %r11
	ONLY_LINK RUN_ENDS, event_undone
	call	agent_full_run
	jnz	event_undone
	ret
event_undone:
	movq	$0, THREAD_GUARD(%r8)
	mov	%rdi, %rdx
	mov	%r8, %rdi
	mov	%r11, %rcx
	jmp	agent_run_event_in_c
	.cfi_endproc
	.size	agent_run_event_of, . - agent_run_event_of

/* Runs the image of the link in rcx on the context in rdi, for the site in rsi and the thread in r8; r11:
 * the registers; r10: its session's control page. The guard is given back; rax is 0, and zero is in the
 * flags. Else there was no virtual CPU at the first try, or no owner, and all but rax, r9 and r10 is as it
 * was. */
	.globl	agent_full_run
	.hidden	agent_full_run
	.type	agent_full_run, @function
	.p2align 5
agent_full_run:
	.cfi_startproc
	sub	$RUN_FRAME, %rsp
	.cfi_adjust_cfa_offset RUN_FRAME
	mov	%r11, RUN_REGS(%rsp)
	testb	$RUN_READS_, LINK_LEAN + 1(%rcx)
	jnz	reads
	mov	LINK_SESSION(%rcx), %r9d
	and	$MAX_SESSIONS - 1, %r9d
	imul	$SESSION_SIZE, %r9d, %r9d
	lea	shim_agent_root + ROOT_SESSIONS(%rip), %r11
	add	%r9, %r11
	mov	SESSION_OWNER(%r11), %r9d
	test	%r9d, %r9d
	jz	none
	or	THREAD_INDEX(%r8), %r9d
	mov	%r9d, RUN_OWNER(%rsp)
	movl	$-1, RUN_VCPU(%rsp)
	testb	$PROG_VCPU, LINK_FLAGS(%rcx)
	jnz	claim
claimed:
	mov	%r10, RUN_CTL(%rsp)
	mov	%r8, RUN_THREAD(%rsp)
	mov	LINK_COOKIE(%rcx), %r9
	mov	%r9, RUN_COOKIE(%rsp)
	mov	SITE_FUNC(%rsi), %r9
	mov	%r9, RUN_FUNC(%rsp)
	xor	%eax, %eax
	mov	%rax, RUN_SCRATCH(%rsp)		/* behind a 0 there is nobody's */
	testb	$RUN_MAPS, LINK_LEAN + 1(%rcx)
	jnz	maps
	mov	SESSION_PERF_SIZE(%r11), %r9
	mov	%r9, RUN_PERF_SIZE(%rsp)
	mov	SESSION_PERF(%r11), %r9
	mov	%r9, RUN_PERF(%rsp)
	mov	LINK_PROG(%rcx), %r9d
	mov	%r9, RUN_PROG(%rsp)
	mov	%rax, RUN_CODE(%rsp)
	mov	%rax, RUN_PACKET(%rsp)
	mov	%rax, RUN_BOTH(%rsp)
	mov	%rax, RUN_SIGNAL(%rsp)
	mov	%rsp, %rsi
	test	$15, %spl
	jnz	odd
	mov	%rsp, RUN_SCRATCH + 24(%rsp)
	call	*LINK_IMAGE(%rcx)
called:
	mov	RUN_THREAD(%rsp), %rcx
	mov	RUN_VCPU(%rsp), %eax
	cmp	$-1, %eax
	jne	release
released:
	cmpq	$0, RUN_SIGNAL(%rsp)
	jne	flush
flushed:
	movq	$0, THREAD_GUARD(%rcx)
	add	$RUN_FRAME, %rsp
	.cfi_remember_state
	.cfi_adjust_cfa_offset -RUN_FRAME
	xor	%eax, %eax
	ret
	.cfi_restore_state
	/* each word that is left out is a store, of which this processor makes one a cycle */
maps:
	mov	%rsp, %rsi
	test	$15, %spl
	jnz	odd
	mov	%rsp, RUN_SCRATCH + 24(%rsp)
	call	*LINK_IMAGE(%rcx)
	mov	RUN_THREAD(%rsp), %rcx
	mov	RUN_VCPU(%rsp), %eax
	cmp	$-1, %eax
	jne	release
	jmp	flushed
reads:
	test	$15, %spl
	jnz	odd_reads
	RUN_READS
	call	*LINK_IMAGE(%rcx)
	mov	RUN_THREAD(%rsp), %rcx
	jmp	flushed
odd_reads:
	RUN_READS
	/* the application's stack is not aligned as for a call */
odd:
	movq	$0, RUN_SIGNAL(%rsi)		/* from reads, and maps */
	test	$7, %spl
	jnz	odder
	lea	-8(%rsp), %rsp
	.cfi_adjust_cfa_offset 8
	mov	%rsp, RUN_SCRATCH + 24(%rsi)
	call	*LINK_IMAGE(%rcx)
	lea	8(%rsp), %rsp
	.cfi_adjust_cfa_offset -8
	jmp	called
odder:
	and	$-16, %rsp
	.cfi_remember_state
	.cfi_def_cfa rsi, RUN_FRAME + 8
	push	%rsi
	push	%rsi
	/* CFA = *rsp + RUN_FRAME + 8 */
	.cfi_escape 0x0f, 6, 0x77, 0, 0x06, 0x23, 0x98, 0x01
	mov	%rsp, RUN_SCRATCH + 24(%rsi)
	call	*LINK_IMAGE(%rcx)
	mov	(%rsp), %rsp
	.cfi_restore_state
	jmp	called
release:
	mov	RUN_FULL(%rsp), %rdi
	mov	RUN_OWNER(%rsp), %edx
	cmp	%edx, (%rdi)
	jne	1f
	movl	$0, (%rdi)
	jmp	released
1:	mov	RUN_CTL(%rsp), %rdi		/* let go meanwhile, and taken again */
	mov	%eax, %esi
	call	shim_vcpu_release
	mov	RUN_THREAD(%rsp), %rcx
	jmp	released
flush:
	mov	%rsp, %rdi
	call	shim_signal_flush
	mov	RUN_THREAD(%rsp), %rcx
	jmp	flushed
claim:
	VCPU_KEPT RUN_VCPU(%rsp), 1f, none
	mov	%rax, RUN_FULL(%rsp)
	movq	$0, RUN_SIGNAL(%rsp)		/* for maps */
	jmp	claimed
1:	mov	RUN_OWNER(%rsp), %r9d
	VCPU_CLAIM RUN_VCPU(%rsp), none
	mov	%rax, RUN_FULL(%rsp)
	mov	LINK_CTL(%rcx), %r10
	movq	$0, RUN_SIGNAL(%rsp)
	jmp	claimed
none:
	mov	RUN_REGS(%rsp), %r11
	add	$RUN_FRAME, %rsp			/* no zero */
	.cfi_adjust_cfa_offset -RUN_FRAME
	ret
	.cfi_endproc
	.size	agent_full_run, . - agent_full_run

	.section .note.GNU-stack, "", @progbits
