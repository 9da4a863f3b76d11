/*
 * Kernel functions that need no kernel: on strings at any address, on maps, on sections that mean
 * nothing here. Strings are read without faults; what is at no address is -EFAULT, and at those that never
 * are one -ERANGE. Source: kernel/bpf/helpers.c (6.18).
 */
#include "helpers.h"

enum { MOST = 65536 /* XATTR_SIZE_MAX */, PART = 64, NEVER = 4096 };

/* A string as it is read: bytes from base on. */
struct text {
	u64 base;
	u64 have;
	u8 part[PART];
};

/* The byte at addr, or -EFAULT. */
static long at(struct text *t, u64 addr)
{
	if (addr - t->base >= t->have) {
		u64 n = SHIM_PAGE - (addr & (SHIM_PAGE - 1));

		n = n < PART ? n : PART;
		t->have = 0;
		if (shim_copy_from(t->part, addr, n))
			return -EFAULT;
		t->base = addr;
		t->have = n;
	}
	return t->part[addr - t->base];
}

static long lower(long c)
{
	return c >= 'A' && c <= 'Z' ? c + 'a' - 'A' : c;
}

static u64 compared(u64 one, u64 other, int fold)
{
	struct text a = { 0, 0, { 0 } }, b = { 0, 0, { 0 } };

	if (one < NEVER || other < NEVER)
		return (u64)-ERANGE;
	for (u64 i = 0; i < MOST; i++) {
		long c = at(&a, one + i), d = at(&b, other + i);

		if (c < 0 || d < 0)
			return (u64)-EFAULT;
		if (fold) {
			c = lower(c);
			d = lower(d);
		}
		if (c != d)
			return c < d ? (u64)-1 : 1;
		if (!c)
			return 0;
	}
	return (u64)-E2BIG;
}

/* Index of a byte among the first count, or -ENOENT. nul: that of the NUL will do. */
static u64 found(u64 s, u64 count, u8 wanted, int nul)
{
	struct text t = { 0, 0, { 0 } };
	u64 i;

	if (s < NEVER)
		return (u64)-ERANGE;
	for (i = 0; i < count && i < MOST; i++) {
		long c = at(&t, s + i);

		if (c < 0)
			return (u64)-EFAULT;
		if (c == wanted || (nul && !c))
			return i;
		if (!c)
			return (u64)-ENOENT;
	}
	return i == MOST ? (u64)-E2BIG : (u64)-ENOENT;
}

/* Bytes from the start that are in the set, or that are not. */
static u64 span(u64 s, u64 set, int in)
{
	struct text a = { 0, 0, { 0 } }, b = { 0, 0, { 0 } };

	if (s < NEVER || set < NEVER)
		return (u64)-ERANGE;
	for (u64 i = 0; i < MOST; i++) {
		long c = at(&a, s + i), d = 0;
		u64 j;

		if (c < 0)
			return (u64)-EFAULT;
		if (!c)
			return i;
		for (j = 0; j < MOST; j++) {
			d = at(&b, set + j);
			if (d < 0)
				return (u64)-EFAULT;
			if (d == c || !d)
				break;
		}
		if (j == MOST)
			return (u64)-E2BIG;
		if (in ? !d : d != 0)
			return i;
	}
	return (u64)-E2BIG;
}

/* Index of the second string in the first len bytes of the first, or -ENOENT. */
static u64 inside(u64 one, u64 other, u64 len)
{
	struct text a = { 0, 0, { 0 } }, b = { 0, 0, { 0 } };

	if (one < NEVER || other < NEVER)
		return (u64)-ERANGE;
	for (u64 i = 0; i < MOST; i++) {
		u64 j;

		for (j = 0; i + j <= len && j < MOST; j++) {
			long d = at(&b, other + j), c;

			if (d < 0)
				return (u64)-EFAULT;
			if (!d)
				return i;
			if (i + j == len)
				break;
			c = at(&a, one + i + j);
			if (c < 0)
				return (u64)-EFAULT;
			if (!c)
				return (u64)-ENOENT;
			if (c != d)
				break;
		}
		if (j == MOST)
			return (u64)-E2BIG;
		if (i + j == len)
			return (u64)-ENOENT;
	}
	return (u64)-E2BIG;
}

HELPER(nothing)
{
	UNUSED(r1, r2, r3, r4, r5);
	UNUSED((u64)run, 0, 0, 0, 0);
	return 0;
}

HELPER(strcmp)
{
	UNUSED(r3, r4, r5, (u64)run, 0);
	return compared(r1, r2, 0);
}

HELPER(strcasecmp)
{
	UNUSED(r3, r4, r5, (u64)run, 0);
	return compared(r1, r2, 1);
}

HELPER(strchr)
{
	UNUSED(r3, r4, r5, (u64)run, 0);
	return found(r1, MOST, (u8)r2, 0);
}

HELPER(strchrnul)
{
	UNUSED(r3, r4, r5, (u64)run, 0);
	return found(r1, MOST, (u8)r2, 1);
}

HELPER(strnchr)
{
	UNUSED(r4, r5, (u64)run, 0, 0);
	return found(r1, r2, (u8)r3, 0);
}

HELPER(strrchr)
{
	struct text t = { 0, 0, { 0 } };
	u64 last = (u64)-ENOENT;

	UNUSED(r3, r4, r5, (u64)run, 0);
	if (r1 < NEVER)
		return (u64)-ERANGE;
	for (u64 i = 0; i < MOST; i++) {
		long c = at(&t, r1 + i);

		if (c < 0)
			return (u64)-EFAULT;
		if (c == (s32)r2)
			last = i;
		if (!c)
			return last;
	}
	return (u64)-E2BIG;
}

HELPER(strnlen)
{
	struct text t = { 0, 0, { 0 } };
	u64 i;

	UNUSED(r3, r4, r5, (u64)run, 0);
	if (r1 < NEVER)
		return (u64)-ERANGE;
	for (i = 0; i < r2 && i < MOST; i++) {
		long c = at(&t, r1 + i);

		if (c < 0)
			return (u64)-EFAULT;
		if (!c)
			break;
	}
	return i == MOST ? (u64)-E2BIG : i;
}

HELPER(strlen)
{
	UNUSED(r2, r3, r4, r5, (u64)run);
	return helper_strnlen(r1, MOST, 0, 0, 0, run);
}

HELPER(strspn)
{
	UNUSED(r3, r4, r5, (u64)run, 0);
	return span(r1, r2, 1);
}

HELPER(strcspn)
{
	UNUSED(r3, r4, r5, (u64)run, 0);
	return span(r1, r2, 0);
}

HELPER(strstr)
{
	UNUSED(r3, r4, r5, (u64)run, 0);
	return inside(r1, r2, MOST);
}

HELPER(strnstr)
{
	UNUSED(r4, r5, (u64)run, 0, 0);
	return inside(r1, r2, r3);
}

HELPER(map_sum_elem_count)
{
	UNUSED(r2, r3, r4, r5, (u64)run);
	return map_count((const struct shim_map_desc *)r1);
}
