/*
 * Where the kernel delivers a tick (clock.c), on signals that the C library keeps for itself. What is no
 * tick goes to the handler that was there before, with the signals that it knows blocked and nothing of
 * ours on the stack: it may unwind. rdi: number, rsi: siginfo, rdx: ucontext.
 */
#define SI_CODE 8
#define SI_VALUE 24
#define SI_TIMER -2
#define UC_SIGMASK 296
#define NR_SIGPROCMASK 14
#define SIG_SETMASK 2
#define MAGIC 0x53484d43	/* upper half of a tick's value, AGENT_TIMER_MAGIC */

	.text
	.globl	agent_tick_entry
	.hidden	agent_tick_entry
	.type	agent_tick_entry, @function
agent_tick_entry:
	.cfi_startproc
	cmpl	$SI_TIMER, SI_CODE(%rsi)
	jne	1f
	cmpl	$MAGIC, SI_VALUE + 4(%rsi)
	je	agent_gate_tick
1:	lea	agent_tick_before(%rip), %rcx	/* one of two neighbouring numbers */
	mov	%edi, %eax
	and	$1, %eax
	mov	(%rcx,%rax,8), %r9
	cmp	$1, %r9			/* SIG_DFL, SIG_IGN */
	jbe	2f
	mov	%rdi, %r8
	push	%rsi
	.cfi_adjust_cfa_offset 8
	push	%rdx
	.cfi_adjust_cfa_offset 8
	mov	$SIG_SETMASK, %edi
	lea	UC_SIGMASK(%rdx), %rsi
	xor	%edx, %edx
	mov	$8, %r10d
	mov	$NR_SIGPROCMASK, %eax
	syscall
	pop	%rdx
	.cfi_adjust_cfa_offset -8
	pop	%rsi
	.cfi_adjust_cfa_offset -8
	mov	%r8, %rdi
	jmp	*%r9
2:	ret
	.cfi_endproc
	.size	agent_tick_entry, . - agent_tick_entry

/* Unwinders know it by these instructions. */
	.balign	16
	nop
	.globl	agent_tick_restorer
	.hidden	agent_tick_restorer
	.type	agent_tick_restorer, @function
agent_tick_restorer:
	mov	$15, %rax
	syscall
	.size	agent_tick_restorer, . - agent_tick_restorer

	.section .note.GNU-stack, "", @progbits
