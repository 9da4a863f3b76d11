/*
 * Functions that look whether their thread is cancelled, and if not make a system call:
 *
 *	long bridge_NAME(volatile int *flag, long nr, long a, b, c, d, e, f)
 *
 * as C libraries have them. Whoever looks where a thread stands asks for bridge_NAME_end too.
 */
	.text

.macro bridge name, marked=0, by=0
	.p2align 4
	.globl	bridge_\name, bridge_\name\()_end
	.type	bridge_\name, @function
bridge_\name:
	.cfi_startproc
	.if	\marked
	endbr64
	.endif
	mov	(%rdi), %eax
	.if	\by
	test	%eax, %eax
	.else
	testb	$8, (%rdi)
	.endif
	jne	bridge_out
	mov	%rdi, %r11
	mov	%rsi, %rax
	mov	%rdx, %rdi
	mov	%rcx, %rsi
	mov	%r8, %rdx
	mov	%r9, %r10
	mov	8(%rsp), %r8
	mov	16(%rsp), %r9
	mov	%r11, 8(%rsp)
	syscall
bridge_\name\()_end:
	ret
	.cfi_endproc
	.size	bridge_\name, . - bridge_\name
	.endm

	bridge	fill			/* two bytes, and fill near by */
	.p2align 5, 0x90
	bridge	mark, marked=1		/* six bytes before the look */
	.p2align 5, 0x90
	bridge	look, by=1		/* nothing before it */
	.p2align 5, 0x90

	.section .note.GNU-stack, "", @progbits
