/*
 * Perf rings: struct perf_event_mmap_page, then data, as the kernel lays them out
 * (linux/perf_event.h). Many producers, one lock a ring, in the reserved part of its page; the
 * head is published after the record, so that a dead producer has written nothing.
 */
#include <linux/perf_event.h>

#include "runtime.h"

enum { HEADER = 8, LOST_SIZE = 24, MAX_RECORD = 0xfff8 };

struct ring {
	u8 kernels[512];
	u32 lock;
	u32 pad;
	u64 lost; /* records since the last PERF_RECORD_LOST */
	u64 told; /* the head that the reader was last told of */
	u32 since; /* wake_seq when the first record after that came */
	u8 rest[1024 - 512 - 28];
	u64 head, tail, data_offset, data_size;
};
_Static_assert(__builtin_offsetof(struct ring, head) ==
		       __builtin_offsetof(struct perf_event_mmap_page, data_head),
	       "perf_event_mmap_page");
_Static_assert(__builtin_offsetof(struct ring, lock) >
		       __builtin_offsetof(struct perf_event_mmap_page, __reserved),
	       "in the reserved part");

struct cursor {
	u8 *data;
	u64 mask, head;
};

static void put(struct cursor *c, const void *from, u64 n)
{
	u64 at = c->head & c->mask, first = c->mask + 1 - at;

	if (first > n)
		first = n;
	memcpy(c->data + at, from, first);
	memcpy(c->data, (const u8 *)from + first, n - first);
	c->head += n;
}

static void put_lost(struct cursor *c, u64 lost)
{
	struct {
		struct perf_event_header h;
		u64 id, lost;
	} record = { { PERF_RECORD_LOST, 0, LOST_SIZE }, 0, lost };

	put(c, &record, sizeof(record));
}

static void put_sample(struct cursor *c, const void *data, u64 size, u32 raw)
{
	struct {
		struct perf_event_header h;
		u32 size;
	} __attribute__((packed))
	head = { { PERF_RECORD_SAMPLE, PERF_RECORD_MISC_USER, (u16)(HEADER + 4 + raw) }, raw };
	u64 zero = 0;

	put(c, &head, sizeof(head));
	put(c, data, size);
	put(c, &zero, raw - size);
}

/* Under the lock. */
static long append(struct ring *r, u64 data_size, const void *data, u64 size, u32 now)
{
	struct cursor c = { (u8 *)r + SHIM_PAGE, data_size - 1, r->head };
	u32 raw = (u32)(round_up(size + 4, 8) - 4);
	u64 used = c.head - __atomic_load_n(&r->tail, __ATOMIC_ACQUIRE);
	u64 lost = __atomic_load_n(&r->lost, __ATOMIC_RELAXED);
	u64 need = HEADER + 4 + raw + (lost ? LOST_SIZE : 0);

	if (used >= data_size || data_size - used - 1 < need)
		return -ENOSPC;
	if (lost) {
		put_lost(&c, lost);
		__atomic_sub_fetch(&r->lost, lost, __ATOMIC_RELAXED);
	}
	put_sample(&c, data, size, raw);
	if (r->head == __atomic_load_n(&r->told, __ATOMIC_RELAXED))
		__atomic_store_n(&r->since, now, __ATOMIC_RELAXED);
	__atomic_store_n(&r->head, c.head, __ATOMIC_RELEASE);
	return 0;
}

long perf_ring_output(const struct shim_perf_slot *slot, const void *data, u64 size,
		      struct shim_run *run)
{
	u64 word = __atomic_load_n(&slot->word, __ATOMIC_ACQUIRE);
	u64 off = word & ~(u64)(SHIM_PAGE - 1), data_size = 1ULL << (word & SHIM_PERF_SIZE);
	struct shim_ctl *ctl = (struct shim_ctl *)run->ctl;
	struct ring *r = (struct ring *)(run->perf + off);
	long err;

	if (!word)
		return -ENOENT;
	if (word & SHIM_PERF_EVENT)
		return -EINVAL;
	if (!(word & SHIM_PERF_SIZE))
		return -ENOSPC;
	if (data_size < SHIM_PAGE || !run->perf || off > run->perf_size || data_size > run->perf_size ||
	    data_size + SHIM_PAGE > run->perf_size - off)
		return -EINVAL;
	if (round_up(size + 4, 8) + HEADER > MAX_RECORD)
		return -E2BIG;
	err = run_lock(&r->lock, run);
	if (err >= 0) {
		err = append(r, data_size, data, size,
			     __atomic_load_n(&ctl->wake_seq, __ATOMIC_RELAXED));
		run_unlock(&r->lock, run);
	}
	if (err)
		__atomic_add_fetch(&r->lost, 1, __ATOMIC_RELAXED);
	shim_wake(ctl);
	return err;
}

u64 shim_perf_avail(const void *page)
{
	const struct ring *r = page;

	return __atomic_load_n(&r->head, __ATOMIC_ACQUIRE) -
	       __atomic_load_n(&r->tail, __ATOMIC_ACQUIRE);
}

u32 shim_perf_since(const void *page)
{
	const struct ring *r = page;

	return __atomic_load_n(&r->since, __ATOMIC_RELAXED);
}

void shim_perf_told(void *page, u64 head)
{
	struct ring *r = page;

	__atomic_store_n(&r->told, head, __ATOMIC_RELAXED);
}
