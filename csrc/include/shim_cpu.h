/* Which of the machine's CPUs this is, without a system call. */
#ifndef SHIM_CPU_H
#define SHIM_CPU_H

#include "shim_types.h"

/* cpu.c: SHIM_CPU_*, found out by the first who asks. */
enum { SHIM_CPU_UNKNOWN = 0, SHIM_CPU_RDPID = 1, SHIM_CPU_LSL = 2 };
extern u32 shim_cpu_how __attribute__((visibility("hidden")));
u32 shim_cpu_ask(void) __attribute__((visibility("hidden")));

/* The CPU (12 bits) and above it the node: what the kernel keeps for the vDSO's getcpu, in
 * IA32_TSC_AUX and as a descriptor's limit. */
static inline u32 shim_this_cpu(void)
{
	u64 aux;

	if (__builtin_expect(__atomic_load_n(&shim_cpu_how, __ATOMIC_RELAXED) != SHIM_CPU_RDPID, 0))
		return shim_cpu_ask();
	__asm__ volatile("rdpid %0" : "=r"(aux));
	return (u32)aux;
}

#endif
