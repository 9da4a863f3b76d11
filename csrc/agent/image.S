/*
 * u64 agent_call_image(u64 image, void *ctx, struct shim_run *run)
 *
 * Calls an image and remembers in run->scratch[3] where the stack was before, so that
 * agent_unreachable (a branch that the verifier proved dead was taken) returns for it with r0 = 0
 * and the process lives. Images keep 'run' in r12; so does agent_call_here (hit.h).
 */
#define RUN_SCRATCH3 96

	.text
	.globl	agent_call_image
	.hidden	agent_call_image
	.type	agent_call_image, @function
agent_call_image:
	.cfi_startproc
	push	%rbp
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset rbp, 0
	push	%rbx
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset rbx, 0
	push	%r12
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset r12, 0
	push	%r13
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset r13, 0
	push	%r14
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset r14, 0
	push	%r15
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset r15, 0
	sub	$8, %rsp
	.cfi_adjust_cfa_offset 8
	mov	%rsp, RUN_SCRATCH3(%rdx)
	mov	%rdi, %rax
	mov	%rsi, %rdi
	mov	%rdx, %rsi
	call	*%rax
	add	$8, %rsp
	.cfi_adjust_cfa_offset -8
	pop	%r15
	.cfi_adjust_cfa_offset -8
	pop	%r14
	.cfi_adjust_cfa_offset -8
	pop	%r13
	.cfi_adjust_cfa_offset -8
	pop	%r12
	.cfi_adjust_cfa_offset -8
	pop	%rbx
	.cfi_adjust_cfa_offset -8
	pop	%rbp
	.cfi_adjust_cfa_offset -8
	ret
	.cfi_endproc
	.size	agent_call_image, . - agent_call_image

	.globl	agent_unreachable
	.hidden	agent_unreachable
	.type	agent_unreachable, @function
agent_unreachable:
	mov	RUN_SCRATCH3(%r12), %rsp
	sub	$8, %rsp
	xor	%eax, %eax
	cld
	ret
	.size	agent_unreachable, . - agent_unreachable

/* Isolated images call this at their end in the place of an access outside of their window, on whatever
 * stack there is. */
	.globl	agent_contained
	.hidden	agent_contained
	.type	agent_contained, @function
agent_contained:
	push	%rbp
	mov	%rsp, %rbp
	and	$-16, %rsp
	cld
	call	agent_contained_at
	leave
	ret
	.size	agent_contained, . - agent_contained

	.section .note.GNU-stack, "", @progbits
