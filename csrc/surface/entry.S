/*
 * long syscall(long nr, ...): two numbers are ours, and ioctl on events of ours, the rest goes to
 * the kernel exactly as libc sends it, four of them with a note for the descriptor table: six
 * arguments, errno on -4095..-1.
 *
 * Only edi counts: the kernel takes the number as an int.
 */
	.macro	SAVE
	pushq	%rdi
	pushq	%rsi
	pushq	%rdx
	pushq	%rcx
	pushq	%r8
	pushq	%r9
	subq	$8, %rsp
	.cfi_adjust_cfa_offset 56
	.endm

	.macro	RESTORE
	addq	$8, %rsp
	popq	%r9
	popq	%r8
	popq	%rcx
	popq	%rdx
	popq	%rsi
	popq	%rdi
	.cfi_adjust_cfa_offset -56
	.endm

	.text
	.globl	syscall
	.type	syscall, @function
	.p2align 4
syscall:
	.cfi_startproc
	cmpl	$321, %edi		/* bpf */
	je	1f
	cmpl	$298, %edi		/* perf_event_open */
	je	2f
	cmpl	$16, %edi		/* ioctl */
	je	6f
	cmpl	$3, %edi		/* close */
	je	4f
	cmpl	$33, %edi		/* dup2 */
	je	4f
	cmpl	$292, %edi		/* dup3 */
	je	4f
	cmpl	$436, %edi		/* close_range */
	je	4f
	cmpl	$157, %edi		/* prctl */
	je	5f
	cmpl	$317, %edi		/* seccomp */
	je	5f
0:	movq	%rdi, %rax
	movq	%rsi, %rdi
	movq	%rdx, %rsi
	movq	%rcx, %rdx
	movq	%r8, %r10
	movq	%r9, %r8
	movq	8(%rsp), %r9
	syscall
	cmpq	$-4095, %rax
	jae	3f
	ret
1:	movl	%esi, %edi
	movq	%rdx, %rsi
	movl	%ecx, %edx
	subq	$8, %rsp
	.cfi_adjust_cfa_offset 8
	call	surface_bpf
	addq	$8, %rsp
	.cfi_adjust_cfa_offset -8
	cmpq	$-4095, %rax
	jae	3f
	ret
2:	movq	%rsi, %rdi
	movl	%edx, %esi
	movl	%ecx, %edx
	movl	%r8d, %ecx
	movq	%r9, %r8
	subq	$8, %rsp
	.cfi_adjust_cfa_offset 8
	call	surface_perf_event_open
	addq	$8, %rsp
	.cfi_adjust_cfa_offset -8
	cmpq	$-4095, %rax
	jae	3f
	ret
4:	lock incl surface_changes(%rip)	/* what the table says of descriptors is asked again */
	jmp	0b
5:	SAVE
	call	surface_filter
	RESTORE
	jmp	0b
6:	SAVE
	movl	%esi, %edi
	movl	%edx, %esi
	call	surface_perf_ours
	RESTORE
	testb	%al, %al
	je	0b
	movl	%esi, %edi
	movl	%edx, %esi
	movq	%rcx, %rdx
	subq	$8, %rsp
	.cfi_adjust_cfa_offset 8
	call	surface_perf_ioctl
	addq	$8, %rsp
	.cfi_adjust_cfa_offset -8
	cmpq	$-4095, %rax
	jae	3f
	ret
3:	negl	%eax
	pushq	%rax
	.cfi_adjust_cfa_offset 8
	call	__errno_location@PLT
	popq	%rcx
	.cfi_adjust_cfa_offset -8
	movl	%ecx, (%rax)
	movq	$-1, %rax
	ret
	.cfi_endproc
	.size	syscall, .-syscall
	.section .note.GNU-stack, "", @progbits
