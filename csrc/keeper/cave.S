/*
 * What a thread of a process without an agent executes while the keeper works in it: written into
 * dead bytes of its executable memory (inject.c), position independent, and needing nothing of the
 * keeper to come to its end. It makes one system call (or call of a function) after the other;
 * between two it makes the marker system call, after which the keeper, with one
 * PTRACE_SETREGSET, has it make the next, or puts it back where it was. If nobody does, it undoes
 * what has been done and goes on where it was interrupted, by itself.
 *
 * rbx: last result. rbp, r12: memory to unmap, r12 = 0: none. r13: kp_cave_FD, kp_cave_REGION: the
 * result is a descriptor to be closed (r14; negative: none), or that memory's address; 0; or, for a
 * function, where it has to jump to. rsp: as the thread had it.
 */
#define NR_CLOSE 3
#define NR_MUNMAP 11
#define NR_SIGPROCMASK 14
#define NR_MEMBARRIER 324
#define SHIM_SERVICE_DONE 0x5348494d

	.section .rodata
	.globl	kp_cave, kp_cave_back, kp_cave_all, kp_cave_data, kp_cave_text, kp_cave_end
kp_cave:
	syscall
kp_cave_back:
	mov	%rax, %rbx
	cmp	$1, %r13
	jne	1f
	movslq	%eax, %r14
1:	cmp	$2, %r13
	jne	2f
	mov	%rax, %rbp
2:	mov	$NR_MEMBARRIER, %eax
	mov	$SHIM_SERVICE_DONE, %edi
	xor	%esi, %esi
	xor	%edx, %edx
	syscall

	/* nobody is there any more */
	mov	$NR_SIGPROCMASK, %eax
	mov	$2, %edi			/* SIG_SETMASK */
	lea	kp_cave_all(%rip), %rsi
	xor	%edx, %edx
	mov	$8, %r10d
	syscall
	test	%r14, %r14
	js	3f
	mov	$NR_CLOSE, %eax
	mov	%r14, %rdi
	syscall
3:	test	%r12, %r12
	jz	4f
	mov	$NR_MUNMAP, %eax
	mov	%rbp, %rdi
	mov	%r12, %rsi
	syscall
	/* No signal can come: the stack may be where nothing can be pushed. */
4:	lea	(kp_cave_data + 144)(%rip), %rsp
	popfq
	mov	(kp_cave_data + 152)(%rip), %rsp
	mov	$NR_SIGPROCMASK, %eax
	mov	$2, %edi
	lea	kp_cave_data(%rip), %rsi
	mov	$0, %edx			/* flags stay as they are from here on */
	mov	$8, %r10d
	syscall
	mov	(kp_cave_data + 8)(%rip), %r15
	mov	(kp_cave_data + 16)(%rip), %r14
	mov	(kp_cave_data + 24)(%rip), %r13
	mov	(kp_cave_data + 32)(%rip), %r12
	mov	(kp_cave_data + 40)(%rip), %rbp
	mov	(kp_cave_data + 48)(%rip), %rbx
	mov	(kp_cave_data + 56)(%rip), %r11
	mov	(kp_cave_data + 64)(%rip), %r10
	mov	(kp_cave_data + 72)(%rip), %r9
	mov	(kp_cave_data + 80)(%rip), %r8
	mov	(kp_cave_data + 88)(%rip), %rax
	mov	(kp_cave_data + 96)(%rip), %rcx
	mov	(kp_cave_data + 104)(%rip), %rdx
	mov	(kp_cave_data + 112)(%rip), %rsi
	mov	(kp_cave_data + 120)(%rip), %rdi
	jmp	*(kp_cave_data + 136)(%rip)
	.balign	8
kp_cave_all:
	.quad	-1
/* struct kp_cave_data: signal mask, r15 ... rdi, free, rip, flags, rsp */
kp_cave_data:
	.skip	160
kp_cave_text:
	.skip	128
kp_cave_end:

	.section .note.GNU-stack, "", @progbits
