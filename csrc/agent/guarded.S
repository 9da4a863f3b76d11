/*
 * Copies that may fault: what the handler (quick.c) finds between agent_guarded and agent_guarded_end goes on at
 * agent_guarded_fault. Leaves, which push nothing: the fault may be anywhere.
 */
#define EFAULT 14

	.text
	.globl	agent_guarded, agent_guarded_end, agent_guarded_fault
	.hidden	agent_guarded, agent_guarded_end, agent_guarded_fault
	.globl	agent_guarded_copy, agent_guarded_string
	.hidden	agent_guarded_copy, agent_guarded_string
	.type	agent_guarded_copy, @function
	.type	agent_guarded_string, @function
	.p2align 5
agent_guarded:
/* long agent_guarded_copy(void *dst, u64 src, u64 len) */
agent_guarded_copy:
	.cfi_startproc
	sub	$8, %rdx
	jb	2f
1:	mov	(%rsi), %rax
	mov	%rax, (%rdi)
	add	$8, %rsi
	add	$8, %rdi
	sub	$8, %rdx
	jae	1b
2:	add	$8, %rdx
	jz	4f
3:	movzbl	(%rsi), %eax
	mov	%al, (%rdi)
	inc	%rsi
	inc	%rdi
	dec	%rdx
	jnz	3b
4:	xor	%eax, %eax
	ret
	.cfi_endproc
	.size	agent_guarded_copy, . - agent_guarded_copy

/* long agent_guarded_string(void *dst, u64 src, u64 size): words at addresses that are multiples of 8, so
 * that none reaches into a page that the string does not; nothing is written behind the NUL. */
	.p2align 5
agent_guarded_string:
	.cfi_startproc
	xor	%ecx, %ecx
	movabs	$0x0101010101010101, %r8
	movabs	$0x8080808080808080, %r9
1:	lea	(%rsi, %rcx), %rax
	test	$7, %al
	jz	2f
	cmp	%rdx, %rcx
	jae	4f
	movzbl	(%rsi, %rcx), %eax
	mov	%al, (%rdi, %rcx)
	inc	%rcx
	test	%al, %al
	jnz	1b
	mov	%rcx, %rax
	ret
2:	lea	8(%rcx), %rax
	cmp	%rdx, %rax
	ja	3f
	mov	(%rsi, %rcx), %rax
	mov	%rax, %r10
	mov	%rax, %r11
	sub	%r8, %r10
	not	%r11
	and	%r9, %r10
	test	%r11, %r10
	jnz	3f
	mov	%rax, (%rdi, %rcx)
	add	$8, %rcx
	jmp	2b
3:	cmp	%rdx, %rcx
	jae	4f
	movzbl	(%rsi, %rcx), %eax
	mov	%al, (%rdi, %rcx)
	inc	%rcx
	test	%al, %al
	jnz	3b
	mov	%rcx, %rax
	ret
4:	mov	%rdx, %rax
	ret
	.cfi_endproc
	.size	agent_guarded_string, . - agent_guarded_string
agent_guarded_end:

agent_guarded_fault:
	mov	$-EFAULT, %rax
	ret

	.section .note.GNU-stack, "", @progbits
