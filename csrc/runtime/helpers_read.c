/*
 * Reads of memory that a program has only a number for. What cannot be read is zeroes and -EFAULT
 * (kernel/trace/bpf_trace.c). What a program calls the kernel's memory may be its own: its stack and
 * map values lie in this process; else it is what bpf_get_current_task() leads to.
 */
#include "helpers.h"
#include "task.h"

/* bpf_probe_read_user(), bpf_copy_from_user(). */
HELPER(probe_read)
{
	UNUSED(r4, r5, (u64)run);
	if (!shim_copy_from((void *)r1, r3, (u32)r2))
		return 0;
	memset((void *)r1, 0, (u32)r2);
	return (u64)-EFAULT;
}

/* Bytes with the NUL; a string that is cut has its NUL in the last byte. */
HELPER(probe_read_str)
{
	u32 size = (u32)r2;
	long n;

	UNUSED(r4, r5, (u64)run);
	if (!size)
		return 0;
	n = shim_strncpy_from((void *)r1, r3, size);
	if (n < 0)
		memset((void *)r1, 0, size);
	else if ((u32)n == size)
		((u8 *)r1)[size - 1] = 0;
	return (u64)n;
}

/* Of the registers that the program was called with, as bpf_usdt_arg() reads them: they are there. */
static bool in_context(const struct shim_run *run, u64 from, u64 size)
{
	enum { SIZE = sizeof(struct shim_pt_regs) };

	return run->regs && size <= SIZE && from - run->regs <= SIZE - size;
}

/* bpf_probe_read() and bpf_probe_read_str() too, which tell the two by the address. */
HELPER(probe_read_kernel)
{
	if (in_context(run, r3, (u32)r2)) {
		memcpy((void *)r1, (const void *)r3, (u32)r2);
		return 0;
	}
	if (!kernel_half(r3))
		return helper_probe_read(r1, r2, r3, r4, r5, run);
	return (u64)task_read(run, (void *)r1, r3, (u32)r2);
}

HELPER(probe_read_kernel_str)
{
	u32 size = (u32)r2;
	long n;

	if (!size || !kernel_half(r3))
		return helper_probe_read_str(r1, r2, r3, r4, r5, run);
	n = task_strncpy(run, (void *)r1, r3, size);
	if (n < 0)
		memset((void *)r1, 0, size);
	else if ((u32)n == size)
		((u8 *)r1)[size - 1] = 0;
	return (u64)n;
}

/* No helper of the kernel's: a load of r2 bytes through a pointer that BTF describes, which a fault
 * ends with 0 (arch/x86/net/bpf_jit_comp.c, BPF_PROBE_MEM). */
HELPER(kernel_load)
{
	u64 value = 0;

	UNUSED(r3, r4, r5);
	if (kernel_half(r1) && r2 <= sizeof(value))
		task_read(run, &value, r1, r2);
	return value;
}

/* No helpers of the kernel's: an access of r2 or r3 bytes through a pointer that a class types. */
HELPER(host_load)
{
	u64 value = 0;

	UNUSED(r3, r4, r5, (u64)run);
	if (r2 > sizeof(value) || shim_copy_from(&value, r1, r2))
		return 0;
	return value;
}

HELPER(host_store)
{
	UNUSED(r4, r5, (u64)run);
	if (r3 <= sizeof(r2))
		shim_copy_to(r1, &r2, r3);
	return 0;
}

u64 (*shim_host_clip)(u64 addr, u64 bytes);

HELPER(host_clip)
{
	UNUSED(r3, r4, r5, (u64)run);
	return shim_host_clip ? shim_host_clip(r1, r2) : r2;
}

HELPER(host_peek)
{
	return helper_host_clip(r1, r2, r3, r4, r5, run) < r2
		       ? 0
		       : helper_host_load(r1, r2, r3, r4, r5, run);
}

/* As copy_to_user_nofault(): what may not be written stays as it is. */
HELPER(probe_write_user)
{
	UNUSED(r4, r5, (u64)run);
	return shim_copy_to(r1, (const void *)r2, (u32)r3) ? (u64)-EFAULT : 0;
}
