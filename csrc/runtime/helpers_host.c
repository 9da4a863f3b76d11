/*
 * Bytes of the application's whose number another field of the same object has, which a class grants
 * up to there. The object is found again from the entry's argument, so that pointer and length are
 * of the same object, and as they are now: what a program carries about may be of another time. No
 * word of this is trusted; a length that lies makes a copy that faults.
 */
#include "helpers.h"

enum { PLACE_BITS = 16, COUNT_AT = 32, SIZE_AT = 34, SIGNED_AT = 36, STRING_AT = 37, MOST_AT = 38 };

static u64 place(u64 packed, u32 n)
{
	return packed >> (n * PLACE_BITS) & ((1 << PLACE_BITS) - 1);
}

/* A length of 1 << shift bytes, less than 0 is 0, no more than the most; -EFAULT. */
static long length_at(u64 from, u64 what, u64 *length)
{
	u32 bits = 8u << (what >> SIZE_AT & 3);
	u64 most = what >> MOST_AT, value = 0;

	if (shim_copy_from(&value, from, bits / 8))
		return -EFAULT;
	if (what >> SIGNED_AT & 1 && value >> (bits - 1) & 1)
		value = 0;
	*length = value < most ? value : most;
	return 0;
}

/* How many bytes there are from `from` on; -EFAULT: it is not among those. */
static long there(const struct shim_run *run, u64 from, u64 way, u64 what)
{
	u32 steps = (what >> COUNT_AT & 3) + 1;
	u64 object = run->regs, pointer, length;

	for (u32 n = 0; n < steps; n++)
		if (!object || shim_copy_from(&object, object + place(way, n), sizeof(object)))
			return -EFAULT;
	if (!object || shim_copy_from(&pointer, object + place(what, 0), sizeof(pointer)) ||
	    length_at(object + place(what, 1), what, &length) || from - pointer > length)
		return -EFAULT;
	return (long)(length - (from - pointer));
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
