/* What gcc may call in freestanding code. A string instruction, or a loop that no optimiser knows
 * again: none of these can be compiled into a call of itself. */
#include "runtime.h"

enum { STRING_FROM = 256 }; /* bytes from which a string instruction is the faster one */

/* 8 bytes to 255; the last of them once more where n is no multiple. */
static void copy_by_words(u8 *dst, const u8 *src, unsigned long n)
{
	u64 w, last;

	__builtin_memcpy(&last, src + n - 8, 8);
	for (unsigned long i = 0; i + 8 < n; i += 8) {
		__builtin_memcpy(&w, src + i, 8);
		__builtin_memcpy(dst + i, &w, 8);
		__asm__ volatile("" ::: "memory");
	}
	__builtin_memcpy(dst + n - 8, &last, 8);
}

static void copy_few(u8 *dst, const u8 *src, unsigned long n)
{
	u32 first, last;

	if (n >= 4) {
		__builtin_memcpy(&first, src, 4);
		__builtin_memcpy(&last, src + n - 4, 4);
		__builtin_memcpy(dst, &first, 4);
		__builtin_memcpy(dst + n - 4, &last, 4);
		return;
	}
	for (; n; n--, dst++, src++) {
		*dst = *src;
		__asm__ volatile("" ::: "memory");
	}
}

void *memcpy(void *dst, const void *src, unsigned long n)
{
	void *to = dst;

	if (n < 8)
		copy_few(dst, src, n);
	else if (n < STRING_FROM)
		copy_by_words(dst, src, n);
	else
		__asm__ volatile("rep movsb" : "+D"(to), "+S"(src), "+c"(n)::"memory");
	return dst;
}

void *memmove(void *dst, const void *src, unsigned long n)
{
	u8 *to = dst;
	const u8 *from = src;

	if (to >= from + n || from >= to + n)
		return memcpy(dst, src, n);
	if (to <= from) {
		__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n)::"memory");
		return dst;
	}
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
