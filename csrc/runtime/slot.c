/* Process slots of a control page: how a process becomes one that can own locks. */
#include "runtime.h"

static bool claim(struct shim_slot *slot, u32 from)
{
	return __atomic_compare_exchange_n(&slot->state, &from, SHIM_SLOT_CLAIMED, false,
					   __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

/* Where the backend is slow, or gone: a dead process's slot, in a new generation. */
static bool reclaim(struct shim_slot *slot)
{
	u32 state = __atomic_load_n(&slot->state, __ATOMIC_ACQUIRE), gen = slot->gen;

	if (state != SHIM_SLOT_LIVE || !process_gone(slot->pid, slot->start_time))
		return false;
	if (!claim(slot, SHIM_SLOT_LIVE))
		return false;
	if (slot->gen != gen) { /* somebody else has, between the two: this one is alive */
		__atomic_store_n(&slot->state, SHIM_SLOT_LIVE, __ATOMIC_RELEASE);
		return false;
	}
	slot->gen = gen % ((1u << SHIM_OWNER_GEN_BITS) - 1) + 1;
	return true;
}

static u32 fill(struct shim_ctl *ctl, u32 at, u32 pid, u64 start_time)
{
	struct shim_slot *slot = &ctl->slot[at];
	u32 owner = at << SHIM_OWNER_SLOT_SHIFT | slot->gen << SHIM_OWNER_GEN_SHIFT;

	slot->pid = pid;
	slot->told = 0;
	__atomic_store_n(&slot->seen, 0, __ATOMIC_RELAXED);
	slot->start_time = start_time;
	__atomic_store_n(&slot->state, SHIM_SLOT_LIVE, __ATOMIC_RELEASE);
	__atomic_add_fetch(&ctl->backend_seq, 1, __ATOMIC_ACQ_REL);
	futex_wake(&ctl->backend_seq);
	return owner;
}

u32 shim_slot_claim(struct shim_ctl *ctl, u32 pid, u64 start_time)
{
	for (u32 at = 1; at < SHIM_MAX_SLOTS; at++)
		if (claim(&ctl->slot[at], SHIM_SLOT_FREE))
			return fill(ctl, at, pid, start_time);
	for (u32 at = 1; at < SHIM_MAX_SLOTS; at++)
		if (reclaim(&ctl->slot[at]))
			return fill(ctl, at, pid, start_time);
	return 0;
}
