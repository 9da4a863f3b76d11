# Functions by how they are left. A jump table leads to what keep() and lose() do at their end.

	.text
	.macro by_table name
	.globl	\name
	.type	\name, @function
\name:
	.cfi_startproc
	push	%rbx
	lea	\name\()_table(%rip), %rax
	movslq	(%rax,%rdi,4), %rdx
	add	%rax, %rdx
	jmp	*%rdx
\name\()_0:
	pop	%rbx
	ret
\name\()_1:
	pop	%rbx
	.endm

	.macro done name
	.cfi_endproc
	.size	\name, . - \name
	.section .rodata
	.balign	4
\name\()_table:
	.long	\name\()_0 - \name\()_table, \name\()_1 - \name\()_table
	.text
	.endm

	by_table keep
	ret
	done	keep

	by_table lose		# by another function, one cannot see which
	jmp	*%rsi
	done	lose

	.altmacro
	.macro end name, n
	.type	\name\n, @function
\name\n:
	.cfi_startproc
	ret
	.cfi_endproc
	.size	\name\n, . - \name\n
	.endm

	.macro choice name, n
	cmp	$\n, %edi
	je	\name\n
	.endm

	.macro by_others name, how_many	# and by a ret of its own
	.set	i, 0
	.rept	\how_many
	end	\name, %i
	.set	i, i + 1
	.endr
	.globl	\name
	.type	\name, @function
\name:
	.cfi_startproc
	.set	i, 0
	.rept	\how_many
	choice	\name, %i
	.set	i, i + 1
	.endr
	ret
	.cfi_endproc
	.size	\name, . - \name
	.endm

	by_others some, 100
	by_others many, 300

	.section .note.GNU-stack, "", @progbits
