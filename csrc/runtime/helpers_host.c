/*
 * Bytes of the application's whose number another field of the same object has, which a class grants
 * up to there. The object is found again from the entry's argument, so that pointer and length are
 * of the same object, and as they are now: what a program carries about may be of another time. No
 * word of this is trusted; a length that lies makes a copy that faults.
 */
#include "helpers.h"

enum { PLACE_BITS = 16, COUNT_AT = 32, SIZE_AT = 34, SIGNED_AT = 36, STRING_AT = 37, MOST_AT = 38 };
enum { NEAR = 32 }; /* bytes that are read at once */

static u64 place(u64 packed, u32 n)
{
	return packed >> (n * PLACE_BITS) & ((1 << PLACE_BITS) - 1);
}

/* No less than 0, no more than the most. */
static u64 length_of(u64 value, u64 what)
{
	u32 bits = 8u << (what >> SIZE_AT & 3);
	u64 most = what >> MOST_AT;

	if (what >> SIGNED_AT & 1 && value >> (bits - 1) & 1)
		return 0;
	return value < most ? value : most;
}

/* Pointer and length of an object, by one copy where they are neighbours; -EFAULT. */
static long fields(u64 object, u64 what, u64 *pointer, u64 *length)
{
	u64 at = place(what, 0), other = place(what, 1), size = 1 << (what >> SIZE_AT & 3);
	u64 first = at < other ? at : other, end = at + 8 > other + size ? at + 8 : other + size;
	u8 both[NEAR];

	*length = 0;
	if (end - first <= sizeof(both)) {
		if (shim_copy_from(both, object + first, end - first))
			return -EFAULT;
		memcpy(pointer, both + (at - first), sizeof(*pointer));
		memcpy(length, both + (other - first), size);
		return 0;
	}
	return shim_copy_from(pointer, object + at, sizeof(*pointer)) ||
			       shim_copy_from(length, object + other, size)
		       ? -EFAULT
		       : 0;
}

/* How many bytes there are from `from` on; -EFAULT: it is not among those. */
static long there(const struct shim_run *run, u64 from, u64 way, u64 what)
{
	u32 steps = (what >> COUNT_AT & 3) + 1;
	u64 object, pointer, length;

	if (!run->regs || place(way, 0) > sizeof(struct shim_pt_regs) - sizeof(object))
		return -EFAULT;
	memcpy(&object, (const u8 *)run->regs + place(way, 0), sizeof(object));
	for (u32 n = 1; n < steps; n++)
		if (!object || shim_copy_from(&object, object + place(way, n), sizeof(object)))
			return -EFAULT;
	if (!object || fields(object, what, &pointer, &length))
		return -EFAULT;
	length = length_of(length, what);
	return from - pointer > length ? -EFAULT : (long)(length - (from - pointer));
}

/* A string ends with its NUL, with the last byte there is, or with the program's room. */
static long read_string(u8 *to, u32 size, u64 from, u64 room)
{
	u32 n = room < size - 1 ? (u32)room : size - 1;
	long got = n ? shim_strncpy_from(to, from, n) : 0;

	if (got < 0)
		return -EFAULT;
	if (got && !to[got - 1])
		return got;
	to[got] = 0;
	return got + 1;
}

HELPER(host_bytes)
{
	u32 size = (u32)r2;
	bool string = r5 >> STRING_AT & 1;
	long room = there(run, r3, r4, r5), done = -EFAULT;

	if (!size)
		return 0;
	if (room >= 0 && string)
		done = read_string((u8 *)r1, size, r3, (u64)room);
	else if (room >= (long)size)
		done = shim_copy_from((void *)r1, r3, size);
	if (done < 0)
		memset((void *)r1, 0, size);
	return (u64)done;
}
