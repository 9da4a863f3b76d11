/*
 * System calls with every kind of neighbourhood, each a function
 *
 *	void NAME(struct state *in, struct state *out)
 *
 * that loads all registers, the flags, xmm0 to 15 and the red zone from *in, makes the call, and
 * stores them all to *out. What lies around the call is the point; the rest is the same.
 */
#define AX 0
#define BX 8
#define CX 16
#define DX 24
#define SI 32
#define DI 40
#define BP 48
#define R8_ 56
#define R9_ 64
#define R10_ 72
#define R11_ 80
#define R12_ 88
#define R13_ 96
#define R14_ 104
#define R15_ 112
#define FLAGS 120
#define XMM 128
#define ZONE 384
#define AFTER 512

	.bss
	.balign	16
in_at:	.skip	8
out_at:	.skip	8
save:	.skip	8
	.text

.macro load
	push	%rbx
	push	%rbp
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	mov	%rdi, in_at(%rip)
	mov	%rsi, out_at(%rip)
	sub	$256, %rsp
	.irp	n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
	movdqu	XMM+16*\n(%rdi), %xmm\n
	.endr
	push	FLAGS(%rdi)
	popfq
	.irp	n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
	mov	ZONE+8*\n(%rdi), %rax
	mov	%rax, -128+8*\n(%rsp)
	.endr
	mov	AX(%rdi), %rax
	mov	BX(%rdi), %rbx
	mov	CX(%rdi), %rcx
	mov	DX(%rdi), %rdx
	mov	SI(%rdi), %rsi
	mov	BP(%rdi), %rbp
	mov	R8_(%rdi), %r8
	mov	R9_(%rdi), %r9
	mov	R10_(%rdi), %r10
	mov	R11_(%rdi), %r11
	mov	R12_(%rdi), %r12
	mov	R13_(%rdi), %r13
	mov	R14_(%rdi), %r14
	mov	R15_(%rdi), %r15
	mov	DI(%rdi), %rdi
.endm

/* after: the address that rcx must be, put into out->after */
.macro store after
	mov	%rdi, save(%rip)
	mov	out_at(%rip), %rdi
	mov	%rax, AX(%rdi)
	mov	%rbx, BX(%rdi)
	mov	%rcx, CX(%rdi)
	mov	%rdx, DX(%rdi)
	mov	%rsi, SI(%rdi)
	mov	%rbp, BP(%rdi)
	mov	%r8, R8_(%rdi)
	mov	%r9, R9_(%rdi)
	mov	%r10, R10_(%rdi)
	mov	%r11, R11_(%rdi)
	mov	%r12, R12_(%rdi)
	mov	%r13, R13_(%rdi)
	mov	%r14, R14_(%rdi)
	mov	%r15, R15_(%rdi)
	mov	save(%rip), %rax
	mov	%rax, DI(%rdi)
	lea	\after(%rip), %rax
	mov	%rax, AFTER(%rdi)
	.irp	n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
	mov	-128+8*\n(%rsp), %rax
	mov	%rax, ZONE+8*\n(%rdi)
	.endr
	pushfq
	pop	FLAGS(%rdi)
	.irp	n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
	movdqu	%xmm\n, XMM+16*\n(%rdi)
	.endr
	add	$256, %rsp
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbp
	pop	%rbx
	cld
	ret
.endm

.macro site name
	.p2align 4
	.globl	\name
	.type	\name, @function
\name:
	.cfi_startproc
	load
.endm

.macro done name after
	store	\after
	.cfi_endproc
	.size	\name, . - \name
.endm

/* the usual one: a constant number, a comparison behind */
site plain
	mov	$39, %eax
	syscall
1:	movabs	$0x1122334455667788, %r15
done plain 1b

/* the number from a register */
site variable
	mov	%r12, %rax
	nop
	nop
	syscall
1:	mov	in_at(%rip), %r15
	mov	R15_(%r15), %r15
done variable 1b

/* short instructions on both sides */
site several
	push	%rbx
	pop	%rbx
	nop
	mov	%ebp, %eax
	syscall
1:	mov	%r12, %r12
	mov	%r13, %r13
	mov	%r14, %r14
done several 1b

/* what follows is jumped to from elsewhere, where nothing was called: rax 0 jumps */
site shared
	xchg	%rcx, %rax
	jrcxz	2f
	xchg	%rcx, %rax
	jmp	5f
2:	xchg	%rcx, %rax
	jmp	1f
5:	mov	$39, %eax
	syscall
1:	mov	in_at(%rip), %r15
	mov	R15_(%r15), %r15
done shared 1b

/* no window directly behind: a jump target stands in it */
site late
	xchg	%rcx, %rax
	jrcxz	2f
	xchg	%rcx, %rax
	jmp	5f
2:	xchg	%rcx, %rax
	jmp	3f
5:	mov	$39, %eax
	syscall
1:	mov	%r12, %r12
3:	mov	in_at(%rip), %r15
	mov	R15_(%r15), %r15
done late 1b

/* a call behind */
site calling
	mov	$39, %eax
	syscall
1:	call	4f
	mov	%r8, %r8
done calling 1b
4:	ret

/* a return behind, and fill; called, so the red zone is the caller's no more */
	.p2align 4
	.type	returning_call, @function
returning_call:
	.cfi_startproc
	mov	$39, %eax
	syscall
	ret
	.cfi_endproc
	.size	returning_call, . - returning_call
	.p2align 4
	.skip	16, 0x90
site returning
	call	returning_call
	nop
done returning returning_call+7

/* two bytes before the call, at a function's beginning: fill in front of it takes the jump */
	.skip	16, 0x90
	.p2align 4
	.type	short_call, @function
short_call:
	.cfi_startproc
	mov	%ebp, %eax
	syscall
	mov	%r12, %r12
	mov	%r13, %r13
	ret
	.cfi_endproc
	.size	short_call, . - short_call
	.p2align 4
	.skip	16, 0x90
site island
	call	short_call
	nop
done island short_call+4

/* long entry_call(void): getpid, from the first instruction on */
	.p2align 4
	.globl	entry_call
	.type	entry_call, @function
entry_call:
	.cfi_startproc
	mov	$39, %eax
	syscall
	ret
	.cfi_endproc
	.size	entry_call, . - entry_call
	.p2align 4

	.section .note.GNU-stack, "", @progbits
