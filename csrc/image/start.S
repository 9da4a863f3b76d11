/*
 * Where the keeper enters a freshly mapped image (csrc/keeper/inject.c): rdi, rsi, rdx are the
 * arguments of agent_image_init, r13 is where to go on, with its result in rax. On the agent's own
 * stack: the interrupted thread's may be a goroutine's.
 */
	.text
	.globl	agent_image_start
	.hidden	agent_image_start
	.type	agent_image_start, @function
agent_image_start:
	cld
	mov	%rsp, %rbx
	lea	agent_service_frame(%rip), %rsp
	and	$-16, %rsp
	call	agent_image_init
	mov	%rbx, %rsp
	jmp	*%r13
	.size	agent_image_start, . - agent_image_start

	.section .note.GNU-stack, "", @progbits
