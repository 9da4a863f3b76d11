/*
 * The self-restoring call (shim_agent.h). The keeper has set rip to agent_service_entry and rsp
 * to agent_service_frame, below which the service's own stack lies. What is to be resumed is
 * first copied below the red zone of the thread's own stack, so that the frame is free again
 * before the marker, and a signal that comes while registers are restored finds an ordinary stack.
 * No step depends on the keeper being alive.
 */
#include "regs.inc"

#define NR_SIGPROCMASK 14
#define NR_MEMBARRIER 324
#define SHIM_SERVICE_DONE 0x5348494d
#define COPY_SIGMASK 160

	.text
	.globl	agent_service_entry
	.hidden	agent_service_entry
	.type	agent_service_entry, @function
agent_service_entry:
	cld
	mov	%rsp, %rdi
	call	agent_service			/* rax: copy of frame->r15 ... frame->sigmask */
	mov	%rax, %rsp
	mov	%rax, %rbx
	movl	$0, agent_service_frame(%rip)	/* busy */
	mov	$NR_MEMBARRIER, %eax
	mov	$SHIM_SERVICE_DONE, %edi
	xor	%esi, %esi
	xor	%edx, %edx
	syscall
	mov	$NR_SIGPROCMASK, %eax
	mov	$2, %edi			/* SIG_SETMASK */
	lea	COPY_SIGMASK(%rbx), %rsi
	xor	%edx, %edx
	mov	$8, %r10d
	syscall
	POP_REGS
	iretq
	.size	agent_service_entry, . - agent_service_entry

	.bss
	.balign	64
	.skip	65536
	.globl	agent_service_frame
	.hidden	agent_service_frame
	.type	agent_service_frame, @object
agent_service_frame:
	.skip	288
	.size	agent_service_frame, . - agent_service_frame

	.section .note.GNU-stack, "", @progbits
