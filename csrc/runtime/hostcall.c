/*
 * Calls of the application's own functions (kfuncs of its module, docs/eim.md). An image calls
 * helper SHIM_FUNC_HOST_CALL with the function's arguments where System V has them, the function in
 * r10 and the run in r9.
 *
 * A program runs where a function begins or returns, so of the vector registers what arguments and
 * results travel in is the application's still: all of x87, SSE, AVX and AVX-512 is kept. The x87
 * stack is empty for the function, as for any other call. Where the processor tells what is in use,
 * and x87 is not, which is usual, the others are kept by moves, as many as are in use: xsave and
 * xrstor take 0.15 us. What the function has taken into use besides is made as new then. The stack is
 * the one that the hit came on, aligned, and nothing of a red zone is below it.
 *
 * The function may wait, or not come back at all (longjmp, an exception, the thread's end), so the
 * run holds nothing meanwhile: the verifier refuses calls under a lock, and the virtual CPU is let
 * go. Behind the call the same one is taken again, since addresses of its values are in the
 * program's hands. Should somebody keep it for longer than a wait (a second), the run goes on
 * without: its per-CPU values are then for the rest of this run as exact as the kernel's are.
 */
#include "helpers.h"
#include "shim_keys.h"

enum { HOW_FXSAVE = 1, HOW_XSAVE = 2, HOW_XSAVEC = 3 };
enum { X87_SSE_AVX_AVX512 = 0xe7, LEGACY = 512, HEADER = 64 };

/* Found out by the first who calls; how is stored last. */
u32 shim_vector_mask __attribute__((visibility("hidden")));
u32 shim_vector_size __attribute__((visibility("hidden")));
u32 shim_vector_how __attribute__((visibility("hidden")));
u32 shim_vector_tells __attribute__((visibility("hidden"))); /* 1: xgetbv says what is in use */

static void cpuid(u32 leaf, u32 sub, u32 out[4])
{
	__asm__ volatile("cpuid"
			 : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3])
			 : "a"(leaf), "c"(sub));
}

/* Bytes for what the mask names, in either format. */
static u32 area(u32 mask)
{
	u32 plain = LEGACY + HEADER, compact = LEGACY + HEADER, r[4];

	for (u32 i = 2; i < 8; i++) {
		if (!(mask & 1u << i))
			continue;
		cpuid(0xd, i, r);
		if (plain < r[1] + r[0])
			plain = r[1] + r[0];
		compact = ((compact + 63) & ~63u) + r[0];
	}
	return ((plain > compact ? plain : compact) + 63) & ~63u;
}

void shim_vector_ask(void) __attribute__((visibility("hidden")));
void shim_vector_ask(void)
{
	u32 r[4], lo, hi, how = HOW_FXSAVE, mask = 0, size = LEGACY;

	cpuid(1, 0, r);
	if (r[2] & 1u << 27) { /* OSXSAVE */
		__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
		mask = lo & X87_SSE_AVX_AVX512;
		size = area(mask);
		cpuid(0xd, 1, r);
		how = r[0] & 2 ? HOW_XSAVEC : HOW_XSAVE;
		if (r[0] & 4 && mask & 4) { /* AVX, and kmovq if there are registers for it */
			cpuid(7, 0, r);
			WRITE_ONCE(shim_vector_tells, !(mask & 0xe0) || r[1] & 1u << 30);
		}
	}
	WRITE_ONCE(shim_vector_mask, mask);
	WRITE_ONCE(shim_vector_size, size);
	__atomic_store_n(&shim_vector_how, how, __ATOMIC_RELEASE);
}

void shim_host_before(struct shim_run *run) __attribute__((visibility("hidden")));
void shim_host_before(struct shim_run *run)
{
	if (run->vcpu != SHIM_NO_VCPU)
		shim_vcpu_release((struct shim_ctl *)run->ctl, run->vcpu, run->owner);
	shim_key_shut();
}

void shim_host_after(struct shim_run *run) __attribute__((visibility("hidden")));
void shim_host_after(struct shim_run *run)
{
	shim_key_open(); /* closed around the function: it is the application's */
	if (run->vcpu != SHIM_NO_VCPU)
		shim_vcpu_claim_at((struct shim_ctl *)run->ctl, run->vcpu, run->owner);
}

#define EIGHT(of, n0, n1, n2, n3, n4, n5, n6, n7) \
	of(n0) of(n1) of(n2) of(n3) of(n4) of(n5) of(n6) of(n7)
#define SIXTEEN(of) EIGHT(of, 0, 1, 2, 3, 4, 5, 6, 7) EIGHT(of, 8, 9, 10, 11, 12, 13, 14, 15)
#define THIRTY_TWO(of) \
	SIXTEEN(of) \
	EIGHT(of, 16, 17, 18, 19, 20, 21, 22, 23) EIGHT(of, 24, 25, 26, 27, 28, 29, 30, 31)
#define SAVE_X(n) "	movaps %xmm" #n ", 128 + 16 * " #n "(%rsp)\n"
#define LOAD_X(n) "	movaps 128 + 16 * " #n "(%rsp), %xmm" #n "\n"
#define SAVE_Y(n) "	vmovaps %ymm" #n ", 128 + 32 * " #n "(%rsp)\n"
#define LOAD_Y(n) "	vmovaps 128 + 32 * " #n "(%rsp), %ymm" #n "\n"
#define SAVE_Z(n) "	vmovaps %zmm" #n ", 128 + 64 * " #n "(%rsp)\n"
#define LOAD_Z(n) "	vmovaps 128 + 64 * " #n "(%rsp), %zmm" #n "\n"
#define SAVE_K(n) "	kmovq %k" #n ", 64 + 8 * " #n "(%rsp)\n"
#define LOAD_K(n) "	kmovq 64 + 8 * " #n "(%rsp), %k" #n "\n"
/* Of a header of xsave's, not all is written. rdx is 0. */
#define ZERO(n) "	mov %rdx, 512 + 8 * " #n "(%rsp)\n"
#define NO_HEADER EIGHT(ZERO, 0, 1, 2, 3, 4, 5, 6, 7)

/* rbx: the run; r13: the function, then its result; r14d: what is kept by moves, as a mask
 * of components, in an area at rsp: MXCSR, k0 to k7, registers; 0: an area of xsave is there.
 *
 * To unwinders, who do not know images and trampolines, whoever was interrupted by the hit has called
 * the function: an exception goes on there, a walk shows that. */
/* clang-format off */
__asm__(".text\n"
	".globl helper_host_call\n"
	".hidden helper_host_call\n"
	".type helper_host_call, @function\n"
	"helper_host_call:\n"
	"	.cfi_startproc\n"
	"	.cfi_signal_frame\n"
	"	push %rbp\n"
	"	.cfi_adjust_cfa_offset 8\n"
	"	.cfi_rel_offset rbp, 0\n"
	"	mov %rsp, %rbp\n"
	"	.cfi_def_cfa_register rbp\n"
	"	push %rbx\n"
	"	.cfi_rel_offset rbx, -8\n"
	"	push %r13\n"
	"	.cfi_rel_offset r13, -16\n"
	"	push %r14\n"
	"	.cfi_rel_offset r14, -24\n"
	"	push %r15\n"
	"	.cfi_rel_offset r15, -32\n"
	"	mov %r9, %rbx\n"
	"	.cfi_remember_state\n"
	/* CFA = run->regs->sp, ip = run->regs->ip, one less where the run is not at its function's entry */
	"	.cfi_escape 0x0f, 7, 0x73, 8, 0x06, 0x23, 0x98, 0x01, 0x06\n"
	"	.cfi_escape 0x16, 16, 13, 0x73, 8, 0x06, 0x23, 0x80, 0x01, 0x06, 0x12, 0x73, 32, 0x06, "
	"0x2e, 0x1c\n"
	"	.cfi_escape 0x10, 3, 5, 0x73, 8, 0x06, 0x23, 40\n" /* rbx, rbp, r12 to r15 of regs */
	"	.cfi_escape 0x10, 6, 5, 0x73, 8, 0x06, 0x23, 32\n"
	"	.cfi_escape 0x10, 12, 5, 0x73, 8, 0x06, 0x23, 24\n"
	"	.cfi_escape 0x10, 13, 5, 0x73, 8, 0x06, 0x23, 16\n"
	"	.cfi_escape 0x10, 14, 5, 0x73, 8, 0x06, 0x23, 8\n"
	"	.cfi_escape 0x10, 15, 5, 0x73, 8, 0x06, 0x23, 0\n"
	"	mov %r10, %r13\n"
	"	push %rdi\n"
	"	push %rsi\n"
	"	push %rdx\n"
	"	push %rcx\n"
	"	push %r8\n"
	"	and $-64, %rsp\n"
	"	cmpl $0, shim_vector_how(%rip)\n"
	"	jne 1f\n"
	"	call shim_vector_ask\n"
	"1:	mov shim_vector_tells(%rip), %ecx\n"
	"	test %ecx, %ecx\n"
	"	jz 4f\n"
	"	xgetbv\n"
	"	and shim_vector_mask(%rip), %eax\n"
	"	test $1, %al\n"
	"	jnz 4f\n"
	"	test $0xe0, %al\n"
	"	jnz 3f\n"
	"	test $4, %al\n"
	"	jnz 2f\n"
	"	mov $0x02, %r14d\n"
	"	sub $128 + 16 * 16, %rsp\n"
	SIXTEEN(SAVE_X)
	"	stmxcsr (%rsp)\n"
	"	jmp 8f\n"
	"2:	mov $0x06, %r14d\n"
	"	sub $128 + 16 * 32, %rsp\n"
	SIXTEEN(SAVE_Y)
	"	stmxcsr (%rsp)\n"
	"	jmp 7f\n"
	"3:	mov $0xe6, %r14d\n"
	"	sub $128 + 32 * 64, %rsp\n"
	THIRTY_TWO(SAVE_Z)
	EIGHT(SAVE_K, 0, 1, 2, 3, 4, 5, 6, 7)
	"	stmxcsr (%rsp)\n"
	"	jmp 7f\n"
	"4:	xor %r14d, %r14d\n"
	"	mov shim_vector_size(%rip), %eax\n"
	"	sub %rax, %rsp\n"
	"	mov shim_vector_mask(%rip), %eax\n"
	"	xor %edx, %edx\n"
	"	cmpl $2, shim_vector_how(%rip)\n"
	"	jb 5f\n"
	NO_HEADER
	"	je 6f\n"
	"	xsavec64 (%rsp)\n"
	"	emms\n"
	"	jmp 8f\n"
	"5:	fxsave64 (%rsp)\n"
	"	emms\n"
	"	jmp 8f\n"
	"6:	xsave64 (%rsp)\n"
	"	emms\n"
	"	jmp 8f\n"
	"7:	vzeroupper\n" /* as a caller does it */
	"8:	mov %rbx, %rdi\n"
	"	call shim_host_before\n"
	"	mov -40(%rbp), %rdi\n"
	"	mov -48(%rbp), %rsi\n"
	"	mov -56(%rbp), %rdx\n"
	"	mov -64(%rbp), %rcx\n"
	"	mov -72(%rbp), %r8\n"
	"	xor %eax, %eax\n"
	"	call *%r13\n"
	"	mov %rax, %r13\n"
	"	mov %rbx, %rdi\n"
	"	call shim_host_after\n"
	"	test %r14d, %r14d\n"
	"	jz 12f\n"
	"	mov $1, %ecx\n"
	"	xgetbv\n"
	"	xor %edx, %edx\n"
	"	and shim_vector_mask(%rip), %eax\n"
	"	mov %r14d, %ecx\n"
	"	not %ecx\n"
	"	and %ecx, %eax\n"
	"	jz 9f\n"
	"	mov (%rsp), %ecx\n" /* an area that has none of them makes those as new */
	"	mov %rsp, %r15\n"
	"	sub $576, %rsp\n"
	NO_HEADER
	"	mov %ecx, 24(%rsp)\n" /* MXCSR, which comes with some */
	"	xrstor64 (%rsp)\n"
	"	mov %r15, %rsp\n"
	"9:	ldmxcsr (%rsp)\n"
	"	test $0xe0, %r14b\n"
	"	jnz 11f\n"
	"	test $4, %r14b\n"
	"	jnz 10f\n"
	SIXTEEN(LOAD_X)
	"	jmp 14f\n"
	"10:\n"
	SIXTEEN(LOAD_Y)
	"	jmp 14f\n"
	"11:\n"
	EIGHT(LOAD_K, 0, 1, 2, 3, 4, 5, 6, 7)
	THIRTY_TWO(LOAD_Z)
	"	jmp 14f\n"
	"12:	mov shim_vector_mask(%rip), %eax\n"
	"	xor %edx, %edx\n"
	"	cmpl $2, shim_vector_how(%rip)\n"
	"	jb 13f\n"
	"	xrstor64 (%rsp)\n"
	"	jmp 14f\n"
	"13:	fxrstor64 (%rsp)\n"
	"14:	mov %r13, %rax\n"
	"	.cfi_restore_state\n"
	"	lea -32(%rbp), %rsp\n"
	"	pop %r15\n"
	"	pop %r14\n"
	"	pop %r13\n"
	"	pop %rbx\n"
	"	pop %rbp\n"
	"	.cfi_def_cfa rsp, 8\n"
	"	ret\n"
	"	.cfi_endproc\n"
	"	.size helper_host_call, . - helper_host_call\n");
/* clang-format on */
