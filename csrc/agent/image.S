/*
 * u64 agent_call_image(u64 image, void *ctx, struct shim_run *run)
 *
 * Calls an image and remembers in run->scratch[3] where its caller's frame is, so that
 * agent_unreachable (a branch that the verifier proved dead was taken) ends the run with r0 = 0
 * and the process lives. Images keep 'run' in r12.
 */
#define RUN_SCRATCH3 96

	.text
	.globl	agent_call_image
	.hidden	agent_call_image
	.type	agent_call_image, @function
agent_call_image:
	.cfi_startproc
	push	%rbp
	.cfi_def_cfa_offset 16
	.cfi_offset rbp, -16
	mov	%rsp, %rbp
	.cfi_def_cfa_register rbp
	push	%rbx
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	sub	$8, %rsp
	.cfi_offset rbx, -24
	.cfi_offset r12, -32
	.cfi_offset r13, -40
	.cfi_offset r14, -48
	.cfi_offset r15, -56
	mov	%rbp, RUN_SCRATCH3(%rdx)
	mov	%rdi, %rax
	mov	%rsi, %rdi
	mov	%rdx, %rsi
	call	*%rax
.Lout:
	lea	-40(%rbp), %rsp
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbx
	pop	%rbp
	.cfi_def_cfa rsp, 8
	ret
	.cfi_endproc
	.size	agent_call_image, . - agent_call_image

	.globl	agent_unreachable
	.hidden	agent_unreachable
	.type	agent_unreachable, @function
agent_unreachable:
	mov	RUN_SCRATCH3(%r12), %rbp
	xor	%eax, %eax
	cld
	jmp	.Lout
	.size	agent_unreachable, . - agent_unreachable

	.section .note.GNU-stack, "", @progbits
