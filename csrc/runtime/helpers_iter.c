/*
 * Open-coded iterators over numbers and over bits, which a program holds on its stack. Source:
 * kernel/bpf/bpf_iter.c, kernel/bpf/helpers.c (6.18). An int that a kernel function returns has no
 * upper half.
 */
#include "helpers.h"

enum { MAX_LOOPS = 8 << 20 /* BPF_MAX_LOOPS */, MAX_WORDS = 511, CHUNK = 64, WORD = 64 };

struct iter_num {
	s32 cur;
	s32 end;
};

/* More than one word is read from where it lies as the iterator goes on; the kernel has a copy. */
struct iter_bits {
	u64 bits; /* one word, or the address of several */
	s32 count;
	s32 bit;
};

HELPER(iter_num_new)
{
	struct iter_num *it = (struct iter_num *)r1;
	s32 start = (s32)r2, end = (s32)r3;

	UNUSED(r4, r5, (u64)run);
	it->cur = it->end = 0;
	if (start > end)
		return (u32)-EINVAL;
	if ((s64)end - start > MAX_LOOPS)
		return (u32)-E2BIG;
	it->cur = (s32)((u32)start - 1);
	it->end = end;
	return 0;
}

HELPER(iter_num_next)
{
	struct iter_num *it = (struct iter_num *)r1;
	s32 next = (s32)((u32)it->cur + 1);

	UNUSED(r2, r3, r4, r5, (u64)run);
	if (next >= it->end) {
		it->cur = it->end = 0;
		return 0;
	}
	it->cur = next;
	return (u64)&it->cur;
}

HELPER(iter_num_destroy)
{
	struct iter_num *it = (struct iter_num *)r1;

	UNUSED(r2, r3, r4, r5, (u64)run);
	it->cur = it->end = 0;
	return 0;
}

HELPER(iter_bits_new)
{
	struct iter_bits *it = (struct iter_bits *)r1;
	u32 words = (u32)r3;
	u64 seen[CHUNK];

	UNUSED(r4, r5, (u64)run);
	*it = (struct iter_bits){ 0, 0, -1 };
	if (!r2 || !words)
		return (u32)-EINVAL;
	if (words > MAX_WORDS)
		return (u32)-E2BIG;
	for (u32 at = 0; at < words; at += CHUNK) {
		u32 some = words - at < CHUNK ? words - at : CHUNK;

		if (shim_copy_from(seen, r2 + 8 * (u64)at, 8 * (u64)some))
			return (u32)-EFAULT;
	}
	it->bits = words == 1 ? seen[0] : r2;
	it->count = (s32)(words * WORD);
	return 0;
}

HELPER(iter_bits_next)
{
	struct iter_bits *it = (struct iter_bits *)r1;

	UNUSED(r2, r3, r4, r5, (u64)run);
	if (!it->count || it->bit >= it->count)
		return 0;
	for (s32 bit = it->bit + 1; bit < it->count; bit = (bit / WORD + 1) * WORD) {
		u64 word = it->bits;

		if (it->count > WORD && shim_copy_from(&word, it->bits + 8 * (u64)(bit / WORD), 8))
			break;
		word >>= bit % WORD;
		if (word) {
			it->bit = bit + __builtin_ctzll(word);
			return (u64)&it->bit;
		}
	}
	it->bit = it->count;
	return 0;
}

HELPER(iter_bits_destroy)
{
	struct iter_bits *it = (struct iter_bits *)r1;

	UNUSED(r2, r3, r4, r5, (u64)run);
	*it = (struct iter_bits){ 0, 0, -1 };
	return 0;
}
