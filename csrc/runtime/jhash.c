/* Bob Jenkins' lookup3 hash of bytes, little endian (burtleburtle.net/bob/c/lookup3.c, hashlittle):
 * what the kernel's jhash() and, of whole words, jhash2() compute, so that ids and false positives
 * that a loader sees are the kernel's. */
#include "runtime.h"

static u32 rot(u32 x, u32 k)
{
	return x << k | x >> (32 - k);
}

static u32 word(const u8 *p, u64 n)
{
	u32 w = 0;

	for (u64 i = 0; i < n && i < 4; i++)
		w |= (u32)p[i] << 8 * i;
	return w;
}

u32 jhash(const void *key, u64 size, u32 seed)
{
	static const u8 turns[6] = { 4, 6, 8, 16, 19, 4 }, last[7] = { 14, 11, 25, 16, 4, 14, 24 };
	u32 v[3];
	const u8 *p = key;

	v[0] = v[1] = v[2] = 0xdeadbeef + (u32)size + seed;
	for (; size > 12; size -= 12, p += 12) {
		for (u32 i = 0; i < 3; i++)
			v[i] += word(p + 4 * i, 4);
		for (u32 i = 0; i < 6; i++) {
			u32 a = i % 3, b = (i + 1) % 3, c = (i + 2) % 3;

			v[a] = (v[a] - v[c]) ^ rot(v[c], turns[i]);
			v[c] += v[b];
		}
	}
	if (!size)
		return v[2];
	for (u32 i = 0; i < 3; i++)
		v[i] += size > 4 * i ? word(p + 4 * i, size - 4 * i) : 0;
	for (u32 i = 0; i < 7; i++) {
		u32 to = (i + 2) % 3, from = (i + 1) % 3;

		v[to] = (v[to] ^ v[from]) - rot(v[from], last[i]);
	}
	return v[2];
}
