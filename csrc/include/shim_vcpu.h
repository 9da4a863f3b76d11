/* The virtual CPU that a thread keeps, claimed once more: what csrc/runtime/vcpu.c says of its keeper. */
#ifndef SHIM_VCPU_H
#define SHIM_VCPU_H

#include "shim_cpu.h"
#include "shim_ctl.h"
#include "shim_run.h"

/* SHIM_NO_VCPU: it is on another CPU, or somebody else has wanted it. Not inside of a run that has it. */
static inline u32 shim_vcpu_again(struct shim_ctl *ctl, u32 entry, u32 owner)
{
	struct shim_vcpu *own = &ctl->vcpu[entry % SHIM_MAX_VCPUS];
	u32 vcpu = SHIM_NO_VCPU, cpu;

	__atomic_store_n(&own->owner, owner, __ATOMIC_RELEASE);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	cpu = shim_this_cpu();
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	if (__builtin_expect(cpu == __atomic_load_n(&own->cpu, __ATOMIC_RELAXED), 1)) {
		vcpu = own->vcpu % SHIM_MAX_VCPUS;
		if (__builtin_expect(
			    __atomic_load_n(&ctl->vcpu[vcpu].word, __ATOMIC_ACQUIRE) == own->keeps, 1))
			return vcpu;
	}
	__atomic_store_n(&own->owner, 0, __ATOMIC_RELEASE);
	return SHIM_NO_VCPU;
}

#endif
