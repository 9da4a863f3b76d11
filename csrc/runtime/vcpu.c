/*
 * Virtual CPUs: a run owns one from begin to end, so per-CPU values need no atomics.
 * The machine's own CPU first, so that data stays in its cache.
 *
 * A thread keeps the one of its CPU between its runs, and begins the next one with plain stores: it says so in
 * its entry, looks on which CPU it is, then whether the virtual CPU's word is still as it left it. Who
 * wants that CPU's marks the word, looks on which CPU he is, then at the entry, and changes the word if
 * nobody is in a run. Without a fence between the keeper's store and his last load, this is why one of the two
 * sees the other:
 * - if the keeper was interrupted between them, that was the fence;
 * - else he was on that CPU all the while. The other one was there too when he had marked the word:
 *   before that while, and the keeper has seen the mark, or behind it, and sees what the keeper stored.
 * The numbers in the word are there for who has stood still over all this: what he saw does not come again.
 * Who is on another CPU has all of them order their accesses first.
 */
#include "runtime.h"
#include "shim_vcpu.h"

enum { NR_MEMBARRIER = 324, MEMBARRIER_GLOBAL = 1, PROBES = 16 };
enum { NO_CPU = 0xffffffff };

static u64 load(const struct shim_vcpu *v)
{
	return __atomic_load_n(&v->word, __ATOMIC_ACQUIRE);
}

static bool take(struct shim_vcpu *v, u64 from, u64 to)
{
	return __atomic_compare_exchange_n(&v->word, &from, to, false, __ATOMIC_SEQ_CST,
					   __ATOMIC_RELAXED);
}

static u32 kept_of(u64 word)
{
	return (u32)(word >> 32);
}

static bool idle(const struct shim_ctl *ctl, u64 word)
{
	return !__atomic_load_n(&ctl->vcpu[kept_of(word) & SHIM_KEPT_ENTRY].owner, __ATOMIC_ACQUIRE);
}

/* From its keeper, who is in no run. far: from another CPU too, which takes a system call of 20 ms. */
static bool steal(struct shim_ctl *ctl, u32 at, u64 word, u64 to, bool far)
{
	const u64 wanted = (u64)SHIM_KEPT_WANTED << 32;

	if (!(word & wanted) && !take(&ctl->vcpu[at], word, word | wanted))
		return false;
	if ((real_cpu() & 0xfff) != at && !(far && !shim_sys2(NR_MEMBARRIER, MEMBARRIER_GLOBAL, 0)))
		return false;
	return idle(ctl, word) && take(&ctl->vcpu[at], word | wanted, to);
}

/* Which its keeper has let go in the midst of a run, or wants from another CPU. */
static bool claim_own(struct shim_ctl *ctl, u32 at, u64 word)
{
	u32 entry = kept_of(word) & SHIM_KEPT_ENTRY, got = shim_vcpu_again(ctl, entry, (u32)word);

	if (got == at)
		return true;
	if (got != SHIM_NO_VCPU) /* it keeps another one by now */
		__atomic_store_n(&ctl->vcpu[entry].owner, 0, __ATOMIC_RELEASE);
	return take(&ctl->vcpu[at], word, (u32)word);
}

/* look: it may be of the dead. */
static bool claim(struct shim_ctl *ctl, u32 at, u32 owner, bool look, bool far)
{
	u64 word = load(&ctl->vcpu[at]);

	if (!word)
		return take(&ctl->vcpu[at], 0, owner);
	if (kept_of(word) && idle(ctl, word))
		return (u32)word == owner ? claim_own(ctl, at, word) : steal(ctl, at, word, owner, far);
	return look && owner_dead(ctl, (u32)word) && take(&ctl->vcpu[at], word, owner);
}

static u32 sweep(struct shim_ctl *ctl, u32 first, u32 nr, u32 owner, bool look)
{
	for (u32 i = 0; i < nr; i++) {
		u32 at = (first + i) % nr;

		if (claim(ctl, at, owner, look, look))
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
		if (claim(ctl, cpu, owner, look, true))
			return cpu;
	} while (wait_more(&w, &look));
	return SHIM_NO_VCPU;
}

void shim_vcpu_release(struct shim_ctl *ctl, u32 vcpu, u32 owner)
{
	struct shim_vcpu *v = &ctl->vcpu[vcpu % SHIM_MAX_VCPUS];

	if (vcpu >= SHIM_MAX_VCPUS || __atomic_load_n(&v->owner, __ATOMIC_RELAXED) != owner)
		return;
	if (READ_ONCE(v->kept))
		v = &ctl->vcpu[READ_ONCE(v->kept) & SHIM_KEPT_ENTRY];
	/* only one's own, as shim_unlock(); while it is, nobody else writes it */
	if (__atomic_load_n(&v->owner, __ATOMIC_RELAXED) == owner)
		__atomic_store_n(&v->owner, 0, __ATOMIC_RELEASE);
}

/* Of a process that is no more, by its slot alone. */
static bool left_behind(struct shim_ctl *ctl, u32 keeper)
{
	const struct shim_slot *slot = &ctl->slot[keeper >> SHIM_OWNER_SLOT_SHIFT];
	u32 state = __atomic_load_n(&slot->state, __ATOMIC_ACQUIRE);

	return state == SHIM_SLOT_DEAD || state == SHIM_SLOT_FREE ||
	       slot->gen != (keeper >> SHIM_OWNER_GEN_SHIFT & ((1u << SHIM_OWNER_GEN_BITS) - 1));
}

u32 shim_vcpu_entry(struct shim_ctl *ctl, u32 owner)
{
	u32 nr = ctl->nr_vcpus, free = SHIM_MAX_VCPUS - nr;

	real_cpu();
	if (shim_cpu_how != SHIM_CPU_RDPID || !nr || nr >= SHIM_MAX_VCPUS)
		return 0;
	for (u32 i = 0, at = (owner * 0x9e3779b1u >> 16) % free; i < PROBES && i < free;
	     i++, at = (at + 1) % free) {
		struct shim_vcpu *entry = &ctl->vcpu[nr + at];
		u32 keeper = __atomic_load_n(&entry->keeper, __ATOMIC_RELAXED);

		if (keeper != owner && keeper && !left_behind(ctl, keeper))
			continue;
		if (keeper != owner &&
		    !__atomic_compare_exchange_n(&entry->keeper, &keeper, owner, false,
						 __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
			continue;
		/* nobody else has the thread's number: what there is is of the dead, or of a run that did not end */
		WRITE_ONCE(entry->cpu, NO_CPU);
		__atomic_store_n(&entry->owner, 0, __ATOMIC_RELAXED);
		return nr + at;
	}
	return 0;
}

/* The word that says so, on the CPU where this is; its entry says already that it is in a run. */
static bool keep_at(struct shim_ctl *ctl, u32 at, u32 entry, u64 mine)
{
	u64 word = load(&ctl->vcpu[at]);

	if (!word || ((u32)word == (u32)mine && (kept_of(word) & SHIM_KEPT_ENTRY) == entry))
		return take(&ctl->vcpu[at], word, mine);
	return kept_of(word) && idle(ctl, word) && steal(ctl, at, word, mine, false);
}

u32 shim_vcpu_keep(struct shim_ctl *ctl, u32 entry, u32 owner)
{
	struct shim_vcpu *own = &ctl->vcpu[entry % SHIM_MAX_VCPUS];
	u32 cpu = real_cpu(), at = cpu & 0xfff, before = own->vcpu;
	u64 word, mine, kept = own->keeps;

	if (at >= ctl->nr_vcpus || at >= SHIM_MAX_VCPUS)
		return SHIM_NO_VCPU;
	__atomic_store_n(&own->owner, owner, __ATOMIC_RELEASE);
	own->taken += SHIM_KEPT_NEXT;
	mine = owner | (u64)((own->taken & ~(u32)SHIM_KEPT_WANTED) | entry) << 32;
	if (!keep_at(ctl, at, entry, mine)) {
		__atomic_store_n(&own->owner, 0, __ATOMIC_RELEASE);
		return SHIM_NO_VCPU;
	}
	WRITE_ONCE(own->keeps, mine);
	WRITE_ONCE(own->vcpu, at);
	WRITE_ONCE(own->cpu, cpu);
	word = load(&ctl->vcpu[before % SHIM_MAX_VCPUS]);
	if (before != at && before < ctl->nr_vcpus && kept &&
	    (word & ~((u64)SHIM_KEPT_WANTED << 32)) == kept)
		take(&ctl->vcpu[before], word, 0); /* the one it kept */
	return at;
}
