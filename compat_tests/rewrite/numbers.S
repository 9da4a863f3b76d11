/* Functions with one system call each, called as their numbers are to be told: n_39_14 may make calls 39 and 14. */
	.text
	.macro fn name
	.globl	\name
	.type	\name, @function
	.balign	16
\name:
	.cfi_startproc
	.endm
	.macro end name
	ret
	.cfi_endproc
	.size	\name, . - \name
	.endm

	fn	n_39
	mov	$39, %eax
	syscall
	end	n_39

	fn	n_14_before		/* five instructions away */
	mov	$14, %eax
	mov	%rdi, %rdx
	xor	%esi, %esi
	mov	$8, %r10d
	syscall
	end	n_14_before

	fn	n_0
	xor	%eax, %eax
	mov	$1, %edx
	syscall
	end	n_0

	fn	n_202_kept		/* kept in another register, over a loop */
	mov	$202, %r9d
	mov	$2, %ecx
1:	mov	%rcx, %rdx
	mov	%r9d, %eax
	syscall
	dec	%edx
	jnz	1b
	end	n_202_kept

	fn	n_14_39			/* by two ways */
	mov	$39, %eax
	test	%edi, %edi
	jz	1f
	mov	$14, %eax
1:	xor	%esi, %esi
	mov	$8, %r10d
	syscall
	end	n_14_39

	fn	n_any_memory
	mov	(%rdi), %eax
	mov	$8, %r10d
	syscall
	end	n_any_memory

	fn	n_any_argument
	mov	%edi, %eax
	mov	$8, %r10d
	syscall
	end	n_any_argument

	fn	n_any_called		/* a call may change it */
	mov	$39, %r9d
	call	n_39
	mov	%r9d, %eax
	syscall
	end	n_any_called

	fn	n_39_saved
	push	%rbx
	mov	$39, %ebx
	call	n_39
	mov	%ebx, %eax
	syscall
	pop	%rbx
	end	n_39_saved

	fn	n_any_part
	mov	$39, %eax
	mov	%dil, %al
	mov	$8, %r10d
	syscall
	end	n_any_part

	fn	n_any_jumped		/* n_39_jumps comes into the midst of it */
	mov	$39, %eax
.Linto:	mov	$8, %r10d
	syscall
	end	n_any_jumped

	fn	n_39_jumps
	mov	$7, %eax
	test	%edi, %edi
	jz	.Linto
	mov	$39, %eax
	syscall
	end	n_39_jumps

	fn	n_39_near		/* no place: a branch leads between */
	mov	$39, %eax
	nop
	test	%edi, %edi
	jz	1f
	mov	$39, %eax
1:	syscall
	end	n_39_near

	.section .note.GNU-stack, "", @progbits
