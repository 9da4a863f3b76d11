/*
 * A thread's own scale of CLOCK_MONOTONIC, for the images that read it by an unordered rdtsc
 * (libbpf_shim/jit/clocks.py says which, and why they may).
 *
 * - Never ahead of the clock: the counter that a scale begins at is read, ordered, behind the vDSO's own
 *   reading; that is 18 ns and more, while the kernel's steering (1000 ppm between two measurements of the
 *   rate) and the measurements' error make 8 in a scale's SHIM_CLOCK_CYCLES.
 * - The counter is read here only once the vDSO has been seen to do so in this thread: two of its readings
 *   differ, by less than a system call takes. Otherwise (another clock source, rdtsc forbidden) there is no
 *   scale.
 * - Words that belong together change by one instruction, so that a handler's run, between any two, finds
 *   them both old or both new. A measurement that was interrupted is seen by how far apart its ends lie.
 * - A counter that has jumped, either way, is outside the scale. A rate is believed once it has been
 *   measured twice.
 */
#include "helpers.h"

enum {
	MONOTONIC = 1,
	SOON_NS = 1000, /* from one call to the next: then a scale pays */
	BACK_NS = 10000, /* further back the clock itself has been set */
	QUICK_NS = 100, /* two readings of the vDSO's, without a system call */
	APART = 512, /* cycles from one end of a measurement to the other */
	BASE = 1 << 21, /* cycles that a rate is measured over, at least */
	ALIKE = 512, /* of two rates: the difference's share */
};

static u64 ordered_tsc(void)
{
	u32 low, high;

	__asm__ volatile("lfence\n\trdtsc" : "=a"(low), "=d"(high) : : "memory");
	return (u64)high << 32 | low;
}

static u64 load(const u64 *word)
{
	return __atomic_load_n(word, __ATOMIC_RELAXED);
}

static void store(u64 *word, u64 value)
{
	__atomic_store_n(word, value, __ATOMIC_RELAXED);
}

/* Both words, if nobody else changes them meanwhile. */
static void put(u64 *pair, u64 first, u64 second)
{
	u64 low = load(pair), high = load(pair + 1);

	__asm__ volatile("lock cmpxchg16b (%2)"
			 : "+a"(low), "+d"(high)
			 : "r"(pair), "b"(first), "c"(second)
			 : "memory", "cc");
}

static bool get(const u64 *pair, u64 *first, u64 *second)
{
	*first = load(pair);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	*second = load(pair + 1);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	return load(pair) == *first;
}

static bool alike(u64 a, u64 b)
{
	u64 apart = a > b ? a - b : b - a;

	return apart <= a / ALIKE;
}

static void forget(struct shim_clock *c)
{
	store(&c->tsc, 0);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	store(&c->rate, 0);
}

/* The clock was `now` when the counter stood between `before` and here. */
static void measured(struct shim_clock *c, u64 before, u64 now)
{
	u64 tsc = ordered_tsc(), since, since_ns, cycles, rate;

	if (tsc - before > APART) {
		store(&c->tsc, 0);
		return;
	}
	if (!get(&c->since_tsc, &since, &since_ns))
		return;
	cycles = tsc - since;
	if (!since || cycles >> 32 || (now - since_ns) >> 32) {
		forget(c);
		store(&c->guess, 0);
		put(&c->since_tsc, tsc, now);
		return;
	}
	if (cycles >= BASE) {
		rate = ((now - since_ns) << 32) / cycles;
		if (alike(rate, load(&c->guess)))
			store(&c->rate, rate);
		else
			forget(c);
		store(&c->guess, rate);
		put(&c->since_tsc, tsc, now);
	}
	if (load(&c->rate))
		put(&c->tsc, tsc, now);
}

/* No rate is known, nor can one be yet. */
static bool too_early(const struct shim_clock *c, u64 now)
{
	return !load(&c->rate) && load(&c->since_tsc) && now - load(&c->since_ns) < BASE / 4;
}

static bool by_counter(u64 now)
{
	return clock_ns(MONOTONIC) - now - 1 < QUICK_NS - 1;
}

u64 clock_passed(const struct shim_run *run, u64 now)
{
	struct shim_thread *t = (struct shim_thread *)run->thread;
	u64 last;

	if (!t)
		return now;
	last = load(&t->clock.last);
	if (last - now - 1 < BACK_NS)
		return last;
	store(&t->clock.last, now);
	return now;
}

u64 clock_own(const struct shim_run *run)
{
	struct shim_thread *t = (struct shim_thread *)run->thread;
	struct shim_clock *c = t && t->fs_base && !((u64)&t->clock % 16) ? &t->clock : 0;
	u64 before, now;

	if (!c)
		return clock_passed(run, clock_ns(MONOTONIC));
	before = load(&c->tsc) ? ordered_tsc() : 0;
	now = clock_ns(MONOTONIC);
	if (now - load(&c->last) >= SOON_NS) {
		store(&c->tsc, 0);
	} else if (before) {
		measured(c, before, now);
	} else if (!too_early(c, now) && by_counter(now)) {
		before = ordered_tsc();
		now = clock_ns(MONOTONIC);
		measured(c, before, now);
	}
	return clock_passed(run, now);
}
