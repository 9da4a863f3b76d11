/* Inside the runtime: how its files call each other. Everything here has hidden visibility. */
#ifndef SHIM_RUNTIME_INTERNAL_H
#define SHIM_RUNTIME_INTERNAL_H

#include <linux/bpf.h>
#include <linux/errno.h>
#include <stdbool.h>

#include "shim_cpu.h"
#include "shim_runtime.h"
#include "shim_sys.h"

static inline u64 round_up(u64 n, u64 to)
{
	return (n + to - 1) / to * to;
}

/* The control page of a descriptor; the run's is the same one, in the same process. */
static inline struct shim_ctl *desc_ctl(const struct shim_map_desc *d)
{
	return (struct shim_ctl *)d->ctl;
}

/* An index that was found to be less than size: for a processor that goes on without having found that, 0. */
static inline u32 held_below(u32 index, u32 size)
{
	u32 mask;

	__asm__("cmp %[size], %[index]\n\tsbb %[mask], %[mask]"
		: [mask] "=&r"(mask)
		: [index] "r"(index), [size] "r"(size)
		: "cc");
	return index & mask;
}

static inline void *desc_at(const struct shim_map_desc *d, u64 off)
{
	return (void *)(d->base + off);
}

/* Where writers and readers meet without a lock: words that are never torn. */
#define READ_ONCE(x) __atomic_load_n(&(x), __ATOMIC_RELAXED)
#define WRITE_ONCE(x, v) __atomic_store_n(&(x), v, __ATOMIC_RELAXED)

/* bytes.c: what gcc may call in freestanding code, and no more. */
void *memcpy(void *dst, const void *src, unsigned long n);
void *memmove(void *dst, const void *src, unsigned long n);
void *memset(void *dst, int c, unsigned long n);
int memcmp(const void *a, const void *b, unsigned long n);

/* Operations of a map type; absent ones answer -EOPNOTSUPP (-EINVAL where the kernel does). */
struct map_ops {
	/* offsets and sizes of *hdr from type, sizes, flags, nr_vcpus; errno as MAP_CREATE */
	long (*layout)(struct shim_map_hdr *hdr);
	long (*format)(void *base, const struct shim_map_hdr *hdr);
	/* of a header somebody else wrote: 0 if every offset it names lies inside file_size */
	long (*check)(const struct shim_map_hdr *hdr);
	void *(*lookup)(const struct shim_map_desc *d, const void *key, struct shim_run *run);
	long (*update)(const struct shim_map_desc *d, const void *key, const void *value, u64 flags,
		       struct shim_run *run);
	long (*del)(const struct shim_map_desc *d, const void *key, struct shim_run *run);
	/* bpf_map_push_elem, pop_elem, peek_elem; from system calls too (a NULL key) */
	long (*push)(const struct shim_map_desc *d, const void *value, u64 flags, struct shim_run *run);
	long (*pop)(const struct shim_map_desc *d, void *value, struct shim_run *run);
	long (*peek)(const struct shim_map_desc *d, void *value, struct shim_run *run);
	long (*sys_lookup)(const struct shim_map_desc *d, const void *key, void *value, u64 flags,
			   struct shim_run *run);
	long (*sys_update)(const struct shim_map_desc *d, const void *key, const void *value, u64 flags,
			   struct shim_run *run);
	long (*sys_take)(const struct shim_map_desc *d, const void *key, void *value, u64 flags,
			 struct shim_run *run);
	long (*sys_next)(const struct shim_map_desc *d, const void *key, void *next,
			 struct shim_run *run);
	/* bpf_for_each_map_elem: elements that fn was called for (map_each below) */
	long (*each)(const struct shim_map_desc *d, u64 fn, u64 ctx, struct shim_run *run);
	u64 (*count)(const struct shim_map_desc *d); /* elements, where they come and go */
	long (*sys_batch)(const struct shim_map_desc *d, const void *in_batch, void *out_batch,
			  void *keys, void *values, u32 *count, u64 flags, u32 del,
			  struct shim_run *run);
};

/* map.c: calls fn(map, key, value, ctx) for each element until it returns 1; how many it was called
 * for. Elements that come or go meanwhile may be met or not; none is met that was not there. */
long map_each(const struct shim_map_desc *d, u64 fn, u64 ctx, struct shim_run *run);

/* map.c: bpf_map_sum_elem_count(): elements of a hash map, 0 of other maps. */
u64 map_count(const struct shim_map_desc *d);

/* map_lru_list.c: what a descriptor says of an LRU map alone, from the rest of it. */
void lru_describe(struct shim_map_desc *d);

/* map_hash_layout.c, map_array.c: shim_map_desc.cpu_slots. No line of the cache has values of two CPUs. */
u32 hash_cpu_slots(u32 elems, u32 value_size);
u32 array_cpu_slots(u32 entries, u32 value_size);

/* map_hash_iter.c: the key of the element whose value is at that offset; -ENOENT: in no chain. */
long hash_key_of(const struct shim_map_desc *d, u64 off, u64 *key);

/* map_hash_plain.c: update and deletion of a BPF_MAP_TYPE_HASH. */
long hash_update(const struct shim_map_desc *d, const void *key, const void *value, u64 flags,
		 struct shim_run *run);
long hash_delete(const struct shim_map_desc *d, const void *key, struct shim_run *run);

/* Defined in map_array.c, map_percpu_array.c, map_hash.c (both hashes), map_lru.c (both), map_lpm.c,
 * map_ringbuf.c, map_perf_array.c, map_queue.c, map_bloom.c, map_stack.c, map_cgroup.c,
 * map_objects.c, map_task.c, map_arena.c. */
extern const struct map_ops array_ops, percpu_array_ops, hash_ops, percpu_hash_ops, lru_hash_ops,
	lru_percpu_hash_ops, lpm_ops, ringbuf_ops, perf_array_ops, queue_stack_ops, bloom_ops,
	stack_trace_ops, cgroup_array_ops, prog_array_ops, array_of_maps_ops, hash_of_maps_ops,
	task_storage_ops, arena_ops;

/* stack.c: the stack of the thread that the program interrupts, by frame pointers; innermost first.
 * Leaves `skip` frames out, writes `max` at most. How many there are, skip + max at most, as many
 * as perf_event_max_stack at most. */
enum { STACK_MAX = 127 };
u32 stack_walk(const struct shim_run *run, u64 *out, u32 skip, u32 max);
/* An entry of BPF_F_STACK_BUILD_ID, BPF_F_USER_BUILD_ID, with its address alone. */
void stack_build_id(struct bpf_stack_build_id *out, u64 ip);
/* map_stack.c: bpf_get_stackid */
long stack_id(const struct shim_map_desc *d, u64 flags, struct shim_run *run);

/* cgroup.c: id of a cgroup2 directory's cgroup, -EBADF; of the calling thread's, 0 if it cannot be
 * known; whether that is the cgroup with this id, or below it. System calls. */
long cgroup_of_fd(s32 fd);
u64 cgroup_id(void);
/* Of the one so many levels below the root that it is in; 0: there is none. */
u64 cgroup_ancestor_id(s32 level);
bool cgroup_under(u64 id);
/* map_cgroup.c: bpf_current_task_under_cgroup */
long cgroup_array_under(const struct shim_map_desc *d, u32 index);

/* helpers_task.c: of the thread that runs; in whose name it does, NULL: its own */
u32 current_tid(const struct shim_run *run);
static inline const struct shim_stand_in *stand_in(const struct shim_run *run)
{
	const struct shim_thread *t = (const struct shim_thread *)run->thread;

	return t && !t->fs_base ? (const struct shim_stand_in *)t : 0;
}
/* map_task.c: bpf_task_storage_get, _delete of a thread. NULL: there is no value, nor was one made. */
void *task_storage_get(const struct shim_map_desc *d, u32 tid, const void *value, bool create,
		       struct shim_run *run);
long task_storage_delete(const struct shim_map_desc *d, u32 tid, struct shim_run *run);

/* map_absent.c: what MAP_CREATE answers for a type that is not there. */
long absent_refuse(const struct shim_map_hdr *hdr);

/* jhash.c */
u32 jhash(const void *key, u64 size, u32 seed);
/* map_value.c: a value from a caller's bytes (init: of a new element), and to a caller. Special fields
 * stay as they are (write), or are blank in the copy. locked: under the element's lock, which
 * the value must have; -EBUSY. */
void value_init(const struct shim_map_desc *d, void *to, const void *from);
long value_write(const struct shim_map_desc *d, void *to, const void *from, bool locked,
		 struct shim_run *run);
long value_read(const struct shim_map_desc *d, void *to, const void *from, bool locked,
		struct shim_run *run);

/* Into shared memory, 8 bytes at a time, then 4, 2, 1, each of them whole; to is aligned, from need not
 * be. */
static inline void copy_words(void *to, const void *from, u64 size)
{
	u64 *dst = to, w;
	const u8 *src = from;
	u16 quarter;
	u32 half;
	u8 *last;

	if (size == 8) { /* most of them */
		__builtin_memcpy(&w, src, 8);
		WRITE_ONCE(*dst, w);
		return;
	}
	for (; size >= 8; size -= 8, src += 8) {
		__builtin_memcpy(&w, src, 8);
		WRITE_ONCE(*dst++, w);
	}
	if (!size)
		return;
	last = (u8 *)dst;
	if (size & 4) {
		__builtin_memcpy(&half, src, 4);
		WRITE_ONCE(*(u32 *)last, half);
		last += 4;
		src += 4;
	}
	if (size & 2) {
		__builtin_memcpy(&quarter, src, 2);
		WRITE_ONCE(*(u16 *)last, quarter);
		last += 2;
		src += 2;
	}
	if (size & 1)
		WRITE_ONCE(*last, *src);
}

/* to and size are multiples of 8. */
static inline void clear_words(void *to, u64 size)
{
	for (u64 *dst = to; size; size -= 8)
		WRITE_ONCE(*dst++, 0);
}

/* Out of shared memory: from is aligned, to need not be. */
static inline void copy_out(void *to, const void *from, u64 size)
{
	const u64 *src = from;
	const u8 *last;
	u8 *dst = to;
	u16 quarter;
	u32 half;
	u64 w;

	if (size == 8) {
		w = READ_ONCE(*src);
		__builtin_memcpy(dst, &w, 8);
		return;
	}
	for (; size >= 8; size -= 8, dst += 8) {
		w = READ_ONCE(*src++);
		__builtin_memcpy(dst, &w, 8);
	}
	if (!size)
		return;
	last = (const u8 *)src;
	if (size & 4) {
		half = READ_ONCE(*(const u32 *)last);
		__builtin_memcpy(dst, &half, 4);
		last += 4;
		dst += 4;
	}
	if (size & 2) {
		quarter = READ_ONCE(*(const u16 *)last);
		__builtin_memcpy(dst, &quarter, 2);
		last += 2;
		dst += 2;
	}
	if (size & 1)
		*dst = READ_ONCE(*last);
}

/* map_grow.c: memory for a part of a map, so that touching it raises no SIGBUS: 0 or -ENOMEM. A
 * system call. */
long map_populate(const struct shim_map_desc *d, u64 off, u64 size);
/* The same for some elements from `first` on, *grown: where they end.
 * values_off: of the per-CPU values behind the elements, or 0. */
long grow(const struct shim_map_desc *d, u32 first, u32 *grown, u64 values_off);

/* map_objects.c: entry of the image in a slot of a PROG_ARRAY, counted in run->tail_calls; 0: there is
 * none, or there were too many. */
u64 prog_array_entry(const struct shim_map_desc *d, u32 index, struct shim_run *run);

/* ringbuf.c (layout in its ops; reserve and the rest here): errno as the helpers of linux/bpf.h.
 * ringbuf_commit: 0, what its helpers answer. */
void *ringbuf_reserve(const struct shim_map_desc *d, u64 size, struct shim_run *run);
u64 ringbuf_commit(void *sample, u64 flags, u32 discard, struct shim_run *run);
long ringbuf_output(const struct shim_map_desc *d, const void *data, u64 size, u64 flags,
		    struct shim_run *run);
u64 ringbuf_query(const struct shim_map_desc *d, u64 what);

/* perf_ring.c: one PERF_RECORD_SAMPLE with PERF_SAMPLE_RAW. -ENOSPC: no room, counted as lost. */
long perf_ring_output(const struct shim_perf_slot *slot, const void *data, u64 size,
		      struct shim_run *run);

/* clock.c: ns of a clock of clock_gettime(2). */
u64 clock_ns(int clock);
/* No thread is known that may not read the time stamp counter. */
bool clock_counts(void);
/* clock_own.c. clock_passed: a time of CLOCK_MONOTONIC as the run's thread is told it, not before one that
 * it has been told. clock_own: SHIM_FUNC_CLOCK_OWN. */
u64 clock_passed(const struct shim_run *run, u64 now);
u64 clock_own(const struct shim_run *run);

/* The machine's CPU (12 bits) and above it the node. */
static inline u32 real_cpu(void)
{
	return shim_this_cpu();
}

/* wake.c: FUTEX_WAKE of all. */
void futex_wake(u32 *word);

/* holder.c: whether an owner word belongs to a process that is gone; a system call. */
bool owner_dead(struct shim_ctl *ctl, u32 owner);
bool process_gone(u32 pid, u64 start_time);
/* When a thread started, in clock ticks; 0: there is none. */
u64 thread_start(struct shim_ctl *ctl, u32 tid);
/* holder.c: does one of those go on whom nr words (of virtual CPUs, or one of a lock) name? That takes
 * some system calls and 3 ms. false too if one of them is self, the caller's own. */
bool holders_go_on(struct shim_ctl *ctl, const u32 *word, u32 nr, u32 self);
/* A bounded wait: spins, then yields, then naps; for a second, and while holders go on for 10. word,
 * nr: as in holders_go_on, nr 0: a second in any case. wait_more: false when it is over; *look: now and
 * then, time to ask owner_dead. */
struct wait {
	struct shim_ctl *ctl;
	const u32 *word;
	u32 nr;
	u32 self;
	u32 tries;
	u32 limits; /* seconds that are over */
	u64 began, until, look;
};
void wait_begin(struct wait *w, struct shim_ctl *ctl, u32 self);
bool wait_more(struct wait *w, bool *look);

/* lock.c: shim_lock in a run: a hit from a signal handler does not run while its thread holds one. */
long run_lock_waiting(u32 *lock, struct shim_run *run);
/* The same of a word that anybody may have written: for a second, whoever it names. */
long run_lock_second(u32 *lock, struct shim_run *run);

static inline void run_holds(const struct shim_run *run, u32 change)
{
	struct shim_thread *t = (struct shim_thread *)run->thread;

	if (__builtin_expect(t != 0, 1))
		WRITE_ONCE(t->locks_held, t->locks_held + change);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
}

static inline bool run_trylock(u32 *lock, struct shim_run *run)
{
	u32 nobody = 0;

	run_holds(run, 1);
	if (__builtin_expect(__atomic_compare_exchange_n(lock, &nobody, run->owner, false,
							 __ATOMIC_ACQUIRE, __ATOMIC_RELAXED),
			     1))
		return true;
	run_holds(run, -1u);
	return false;
}

static inline long run_lock(u32 *lock, struct shim_run *run)
{
	return run_trylock(lock, run) ? 0 : run_lock_waiting(lock, run);
}

static inline void run_unlock(u32 *lock, struct shim_run *run)
{
	/* only one's own: a holder that was taken for dead has lost it */
	if (__builtin_expect(READ_ONCE(*lock) == run->owner, 1))
		__atomic_store_n(lock, 0, __ATOMIC_RELEASE);
	run_holds(run, -1u);
}

/* A lock at the first try, where another one is held already, or run_holds() was told. */
static inline bool inner_lock(u32 *lock, u32 owner)
{
	u32 nobody = 0;

	return __builtin_expect(__atomic_compare_exchange_n(lock, &nobody, owner, false,
							    __ATOMIC_ACQUIRE, __ATOMIC_RELAXED),
				1);
}

static inline void inner_unlock(u32 *lock, u32 owner)
{
	if (__builtin_expect(READ_ONCE(*lock) == owner, 1)) /* as run_unlock() */
		__atomic_store_n(lock, 0, __ATOMIC_RELEASE);
}

/* map_array.c, for arrays of all kinds. array_alloc_check: EINVAL, E2BIG; flags: those allowed.
 * array_place: `copies` arrays, one behind the other. array_check_flags: of an update. */
long array_alloc_check(const struct shim_map_hdr *hdr, u32 flags);
long array_place(struct shim_map_hdr *hdr, u64 copies);
long array_check_percpu(const struct shim_map_hdr *hdr);
long array_check_flags(const struct shim_map_desc *d, const void *key, u64 flags);
long array_sys_next(const struct shim_map_desc *d, const void *key, void *next, struct shim_run *run);

enum { MAX_KEY = 260 }; /* of the types whose positions are keys: LPM_TRIE's */
/* map_batch.c: BPF_MAP_LOOKUP_BATCH by sys_next and sys_lookup; positions are keys. */
long sys_batch(const struct shim_map_desc *d, const void *in_batch, void *out_batch, void *keys,
	       void *values, u32 *count, u64 flags, u32 del, struct shim_run *run);

#endif
