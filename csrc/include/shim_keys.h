/*
 * Protection keys (pkeys(7)): what isolated programs work on lies under one of a process's keys, which
 * the application's code has closed. Whoever comes from there opens it, and closes it on the way back.
 *
 * 'bits' is all that has to be known: both bits of the key (no access, no writes) in PKRU, 0 where a
 * process has no key, which costs a comparison. Each thread has a PKRU of its own; a new one has its
 * maker's, a signal's handler the kernel's, in which every key but the first is closed. So whoever goes
 * back has no access, whatever was there before, and leaves other keys alone: they are the
 * application's.
 */
#ifndef SHIM_KEYS_H
#define SHIM_KEYS_H

#include "shim_types.h"

/* The lower bit of each key's two; by it alone threads begin without access. */
#define SHIM_NO_ACCESS 0x55555555u

extern u32 shim_key_bits __attribute__((visibility("hidden")));

static inline u32 shim_pkru(void)
{
	u32 low, high;

	__asm__ volatile("rdpkru" : "=a"(low), "=d"(high) : "c"(0));
	return low;
}

static inline void shim_pkru_set(u32 value)
{
	__asm__ volatile("wrpkru" : : "a"(value), "c"(0), "d"(0) : "memory");
}

/* 1: somebody further out has it open, or there is no key: to be given to shim_key_back(). */
static inline u32 shim_key_open(void)
{
	u32 bits = __atomic_load_n(&shim_key_bits, __ATOMIC_ACQUIRE), now;

	if (__builtin_expect(!bits, 1))
		return 0;
	now = shim_pkru();
	if (!(now & bits))
		return 1;
	shim_pkru_set(now & ~bits);
	return 0;
}

/* Nobody comes by who has another value in eax: a jump into the middle ends there. */
static inline void shim_key_shut(void)
{
	u32 bits = __atomic_load_n(&shim_key_bits, __ATOMIC_ACQUIRE) & SHIM_NO_ACCESS;

	if (__builtin_expect(!bits, 1))
		return;
	__asm__ volatile("rdpkru\n\tor %0, %%eax\n\twrpkru\n\tand %0, %%eax\n\tcmp %0, %%eax\n\t"
			 "je 1f\n\tud2\n1:"
			 :
			 : "r"(bits), "c"(0)
			 : "eax", "edx", "memory", "cc");
}

static inline void shim_key_back(u32 was_open)
{
	if (!was_open)
		shim_key_shut();
}

/* The calling thread may not touch what is under the key. */
static inline int shim_key_closed(void)
{
	u32 bits = __atomic_load_n(&shim_key_bits, __ATOMIC_ACQUIRE);

	return bits && shim_pkru() & bits;
}

#endif
