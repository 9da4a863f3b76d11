/* task.c: the kernel's memory, as far as programs find some here. */
#ifndef RUNTIME_TASK_H
#define RUNTIME_TASK_H

#include "runtime.h"

/* Where no process has memory. */
static inline bool kernel_half(u64 addr)
{
	return (s64)addr < 0;
}

/* The struct task_struct of a thread, and back: 0, it is none. */
u64 task_address(u32 tid);
u32 task_of_address(u64 addr);

/* len bytes at addr, zeroes where no field is known; -EFAULT: none is. System calls. */
long task_read(const struct shim_run *run, void *dst, u64 addr, u64 len);
/* Bytes with the NUL, or -EFAULT: as shim_strncpy_from. */
long task_strncpy(const struct shim_run *run, void *dst, u64 addr, u64 size);

#endif
