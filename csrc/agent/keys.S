/*
 * The way in and out of the agent where a process has a protection key (shim_keys.h): what trampolines,
 * slots and the hooks of system calls call in the place of the functions in C. Without a key they go on
 * at once. With one it is opened, and closed behind the function by the value that stands in eax, which is
 * looked at once more: so a jump to the second wrpkru, of whomever, leads nowhere with the key open.
 *
 * Links of sessions under the key are met by the functions in C alone (AGENT_* of their records are 0), so
 * that hits of all others are not slower than they were.
 */
#define NO_ACCESS 0x55555555	/* of both bits of each key: SHIM_NO_ACCESS */

	.text

/* Up to four arguments, as the function in C has them; of the other registers those are kept that it
 * keeps. */
.macro GATE function
	.globl	agent_gate_\function
	.hidden	agent_gate_\function
	.type	agent_gate_\function, @function
	.p2align 4
agent_gate_\function:
	.cfi_startproc
	cmpl	$0, shim_key_bits(%rip)
	jne	1f
	jmp	agent_\function
1:	push	%rbx
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset rbx, 0
	mov	shim_key_bits(%rip), %ebx
	mov	%rcx, %r10
	mov	%rdx, %r11
	xor	%ecx, %ecx
	rdpkru
	mov	%ebx, %r9d
	not	%r9d
	and	%r9d, %eax
	wrpkru
	mov	%r10, %rcx
	mov	%r11, %rdx
	call	agent_\function
	mov	%rax, %r10
	and	$NO_ACCESS, %ebx
	xor	%ecx, %ecx
	rdpkru
	or	%ebx, %eax
	wrpkru
	and	%ebx, %eax
	cmp	%ebx, %eax
	jne	2f
	mov	%r10, %rax
	pop	%rbx
	.cfi_remember_state
	.cfi_adjust_cfa_offset -8
	.cfi_restore rbx
	ret
	.cfi_restore_state
2:	ud2
	.cfi_endproc
	.size	agent_gate_\function, . - agent_gate_\function
.endm

	GATE	hit
	GATE	hit_lean
	GATE	return
	GATE	dl_change
	GATE	thread_begins
	GATE	sys_enter
	GATE	sys_exit
	GATE	tick

	.section .note.GNU-stack, "", @progbits
