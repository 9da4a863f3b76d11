/* Helpers that call functions of the program. Source of checks: kernel/bpf/bpf_iter.c; each map
 * type's map_for_each_callback. */
#include "helpers.h"

enum { MAX_LOOPS = 8 << 20 }; /* BPF_MAX_LOOPS */

/* u64 shim_callback(rdi fn, rsi run, rdx r1, rcx r2, r8 r3, r9 r4). The return address and r12 leave
 * rsp a multiple of 16, as calls want it. */
__asm__(".text\n"
	".globl shim_callback\n"
	".hidden shim_callback\n"
	".type shim_callback, @function\n"
	"shim_callback:\n"
	".cfi_startproc\n"
	"push %r12\n"
	".cfi_adjust_cfa_offset 8\n"
	".cfi_rel_offset r12, 0\n"
	"mov %rsi, %r12\n"
	"mov %rdi, %rax\n"
	"mov %rdx, %rdi\n"
	"mov %rcx, %rsi\n"
	"mov %r8, %rdx\n"
	"mov %r9, %rcx\n"
	"call *%rax\n"
	"pop %r12\n"
	".cfi_adjust_cfa_offset -8\n"
	".cfi_restore r12\n"
	"ret\n"
	".cfi_endproc\n"
	".size shim_callback, . - shim_callback\n");

/* Rounds begun: the one that returns 1 is the last. */
HELPER(loop)
{
	u32 rounds = (u32)r1, done = 0;

	UNUSED(r5);
	if (r4)
		return (u64)-EINVAL;
	if (rounds > MAX_LOOPS)
		return (u64)-E2BIG;
	while (done < rounds)
		if (shim_callback(r2, run, done++, r3, 0, 0))
			break;
	return done;
}

HELPER(for_each_map_elem)
{
	UNUSED(r5);
	if (r4)
		return (u64)-EINVAL;
	return (u64)map_each((const struct shim_map_desc *)r1, r2, r3, run);
}
