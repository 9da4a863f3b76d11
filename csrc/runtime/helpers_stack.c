/* Stacks of the thread that a program interrupts. There is no kernel's: bpf_get_stackid finds no
 * frame in it, bpf_get_stack none to copy. Source: kernel/bpf/stackmap.c. */
#include "helpers.h"

enum { STACK_FLAGS = BPF_F_SKIP_FIELD_MASK | BPF_F_USER_STACK | BPF_F_USER_BUILD_ID };

HELPER(get_stackid)
{
	UNUSED(r1, r4, r5);
	return (u64)stack_id((const struct shim_map_desc *)r2, r3, run);
}

/* From the last to the first: both forms lie in the same memory. */
static void widen(void *buffer, u32 count)
{
	for (u32 i = count; i-- > 0;)
		stack_build_id((struct bpf_stack_build_id *)buffer + i, ((u64 *)buffer)[i]);
}

static long get_stack(void *buffer, u32 size, u64 flags, const struct shim_run *run)
{
	bool user = flags & BPF_F_USER_STACK, build_id = flags & BPF_F_USER_BUILD_ID;
	u32 entry = build_id ? sizeof(struct bpf_stack_build_id) : 8;
	u32 skip = flags & BPF_F_SKIP_FIELD_MASK, n;

	if (flags & ~(u64)STACK_FLAGS || (!user && build_id) || size % entry)
		return -EINVAL;
	n = user ? stack_walk(run, buffer, skip, size / entry) : 0;
	if (n < skip)
		return -EFAULT;
	if (build_id)
		widen(buffer, n - skip);
	return (long)(n - skip) * entry;
}

HELPER(get_stack)
{
	u32 size = (u32)r3;
	long got = get_stack((void *)r2, size, r4, run);

	UNUSED(r1, r5);
	memset((u8 *)r2 + (got > 0 ? got : 0), 0, size - (u32)(got > 0 ? got : 0));
	return (u64)got;
}
