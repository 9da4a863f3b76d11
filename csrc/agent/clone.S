/*
 * long agent_clone(u64 flags, u64 stack, void (*run)(u64), u64 arg)
 *
 * A thread on 'stack' (its upper end, 16-byte aligned) that calls run(arg) and ends if that
 * returns. The result is its number, or a negative errno.
 */
	.text
	.globl	agent_clone
	.hidden	agent_clone
	.type	agent_clone, @function
agent_clone:
	.cfi_startproc
	mov	%rdx, %r9		/* survive the system call in the child too */
	mov	%rcx, %r8
	push	%r12
	.cfi_adjust_cfa_offset 8
	.cfi_offset r12, -16
	mov	%r8, %r12
	mov	$56, %eax		/* clone */
	xor	%edx, %edx
	xor	%r10d, %r10d
	xor	%r8d, %r8d
	syscall
	test	%rax, %rax
	jz	.Lchild
	pop	%r12
	.cfi_adjust_cfa_offset -8
	.cfi_restore r12
	ret
.Lchild:
	.cfi_undefined rip
	xor	%ebp, %ebp
	mov	%r12, %rdi
	call	*%r9
	mov	$60, %eax		/* exit: this thread alone */
	xor	%edi, %edi
	syscall
	hlt
	.cfi_endproc
	.size	agent_clone, . - agent_clone

	.section .note.GNU-stack, "", @progbits
