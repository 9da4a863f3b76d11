/*
 * Reads of memory that a program has only a number for. What cannot be read is zeroes and -EFAULT
 * (kernel/trace/bpf_trace.c). What a program calls the kernel's memory is its own: its stack and
 * map values lie in this process, so reads of "kernel" and of "user" memory are the same.
 */
#include "helpers.h"

/* bpf_copy_from_user() too. */
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
