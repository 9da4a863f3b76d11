# More functions than a process has room for probes at, one every 16 bytes from `places` on; one
# whose window has room for a short jump alone; one whose bytes the dynamic linker changes.
# The program calls each of them once.

	.macro	begin name
	.globl	\name
	.type	\name, @function
	.p2align 4
\name:
	.endm
	.macro	end name
	.size	\name, . - \name
	.endm

	.text
	begin	places
	.rept	8192 + 8
	.p2align 4
	.cfi_startproc
	mov	$1, %eax
	ret
	.cfi_endproc
	.endr
	end	places

	begin	narrow
	.cfi_startproc
	xor	%eax, %eax
1:	inc	%eax
	cmp	$3, %eax
	jne	1b
	ret
	.cfi_endproc
	end	narrow
	.skip	16, 0xcc

	begin	relocated
	.cfi_startproc
	movabs	$word, %rax
	ret
	.cfi_endproc
	end	relocated

	begin	main
	.cfi_startproc
	push	%rbx
	.cfi_def_cfa_offset 16
	.cfi_offset %rbx, -16
	lea	places(%rip), %rbx
2:	call	*%rbx
	add	$16, %rbx
	lea	narrow(%rip), %rax
	cmp	%rax, %rbx
	jb	2b
	call	relocated
	lea	word(%rip), %rcx
	sub	%rcx, %rax
	mov	%eax, %ebx
	call	narrow
	lea	-3(%rax,%rbx), %eax
	pop	%rbx
	.cfi_def_cfa_offset 8
	ret
	.cfi_endproc
	end	main

	.data
word:	.quad	0

	.section .note.GNU-stack, "", @progbits
