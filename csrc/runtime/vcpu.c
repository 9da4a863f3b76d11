/*
 * Virtual CPUs: a run owns one from begin to end, so per-CPU values need no atomics.
 * The machine's own CPU first, so that data stays in its cache.
 */
#include "runtime.h"

static bool take(struct shim_vcpu *v, u32 from, u32 owner)
{
	return __atomic_compare_exchange_n(&v->owner, &from, owner, false, __ATOMIC_ACQUIRE,
					   __ATOMIC_RELAXED);
}

static u32 sweep(struct shim_ctl *ctl, u32 first, u32 nr, u32 owner, bool look)
{
	for (u32 i = 0; i < nr; i++) {
		u32 at = (first + i) % nr, seen;

		seen = __atomic_load_n(&ctl->vcpu[at].owner, __ATOMIC_RELAXED);
		if (seen && !(look && owner_dead(ctl, seen)))
			continue;
		if (take(&ctl->vcpu[at], seen, owner))
			return at;
	}
	return SHIM_NO_VCPU;
}

u32 shim_vcpu_claim(struct shim_ctl *ctl, u32 owner)
{
	u32 nr = ctl->nr_vcpus, first, got;
	struct wait w;
	bool look;

	if (!nr || nr > SHIM_MAX_VCPUS)
		return SHIM_NO_VCPU;
	first = real_cpu() & 0xfff;
	if (first >= nr) /* a division is dear */
		first %= nr;
	if (take(&ctl->vcpu[first], 0, owner))
		return first;
	got = sweep(ctl, first, nr, owner, false);
	if (got != SHIM_NO_VCPU)
		return got;
	wait_begin(&w, ctl, owner);
	w.word = &ctl->vcpu[0].owner;
	w.nr = nr;
	while (wait_more(&w, &look)) {
		got = sweep(ctl, first, nr, owner, look);
		if (got != SHIM_NO_VCPU)
			return got;
	}
	return SHIM_NO_VCPU;
}

u32 shim_vcpu_claim_at(struct shim_ctl *ctl, u32 cpu, u32 owner)
{
	struct wait w;
	bool look = false;

	if (cpu >= ctl->nr_vcpus || cpu >= SHIM_MAX_VCPUS)
		return SHIM_NO_VCPU;
	wait_begin(&w, ctl, owner);
	w.word = &ctl->vcpu[cpu].owner;
	w.nr = 1;
	do {
		u32 seen = __atomic_load_n(&ctl->vcpu[cpu].owner, __ATOMIC_RELAXED);

		if ((!seen || (look && owner_dead(ctl, seen))) && take(&ctl->vcpu[cpu], seen, owner))
			return cpu;
	} while (wait_more(&w, &look));
	return SHIM_NO_VCPU;
}

void shim_vcpu_release(struct shim_ctl *ctl, u32 vcpu, u32 owner)
{
	/* only one's own, as shim_unlock(); while it is, nobody else writes it */
	if (vcpu < SHIM_MAX_VCPUS && __atomic_load_n(&ctl->vcpu[vcpu].owner, __ATOMIC_RELAXED) == owner)
		__atomic_store_n(&ctl->vcpu[vcpu].owner, 0, __ATOMIC_RELEASE);
}
