/* What gcc may call in freestanding code. String instructions, so that none of these can be
 * compiled into a call of itself. */
#include "runtime.h"

void *memcpy(void *dst, const void *src, unsigned long n)
{
	void *to = dst;

	__asm__ volatile("rep movsb" : "+D"(to), "+S"(src), "+c"(n)::"memory");
	return dst;
}

void *memmove(void *dst, const void *src, unsigned long n)
{
	u8 *to = dst;
	const u8 *from = src;

	if (to <= from || to >= from + n)
		return memcpy(dst, src, n);
	to += n - 1;
	from += n - 1;
	__asm__ volatile("std; rep movsb; cld" : "+D"(to), "+S"(from), "+c"(n)::"memory");
	return dst;
}

void *memset(void *dst, int c, unsigned long n)
{
	void *to = dst;

	__asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(c) : "memory");
	return dst;
}

int memcmp(const void *a, const void *b, unsigned long n)
{
	const u8 *x = a, *y = b;

	for (unsigned long i = 0; i < n; i++)
		if (x[i] != y[i])
			return x[i] < y[i] ? -1 : 1;
	return 0;
}
