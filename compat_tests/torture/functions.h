/*
 * The functions that are probed, 120 of them in six families, and what they must answer. Each one
 * counts its calls and its own returns, per index, where a probe's counts can be compared.
 */
#ifndef TORTURE_FUNCTIONS_H
#define TORTURE_FUNCTIONS_H

#include <complex.h>
#include <csetjmp>
#include <cstdint>
#include <cstring>

typedef uint64_t u64;

enum { LEAVES = 40, DEEPS = 16, TAILS = 16, THROWS = 16, JUMPS = 16, SHAPES = 16 };
enum { LEAF = 0, DEEP = LEAF + LEAVES, TAIL = DEEP + DEEPS, THROW = TAIL + TAILS };
enum { JUMP = THROW + THROWS, SHAPE = JUMP + JUMPS, FUNCTIONS = SHAPE + SHAPES };

/* In shared memory: children made by fork count too. */
struct counts {
	u64 calls[FUNCTIONS];
	u64 returns[FUNCTIONS];
};
extern counts *tally;

static inline void called(int index)
{
	__atomic_fetch_add(&tally->calls[index], 1, __ATOMIC_RELAXED);
}

static inline u64 returned(int index, u64 value)
{
	__atomic_fetch_add(&tally->returns[index], 1, __ATOMIC_RELAXED);
	return value;
}

static inline u64 mix(u64 x, u64 n)
{
	x += n * 0x9e3779b97f4a7c15ull;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	return x ^ (x >> 27);
}

struct pair {
	u64 a, b;
};
struct large {
	u64 words[5];
};
typedef double quad __attribute__((vector_size(32)));

/* What a frame that is left by an exception must have run. */
extern thread_local long alive;
struct Guard {
	Guard()
	{
		alive++;
	}
	~Guard()
	{
		alive--;
	}
};

struct thrown {
	u64 value;
};
extern thread_local jmp_buf *landing;

typedef u64 (*function)(u64 x);
typedef u64 (*nested)(u64 x, long depth);
extern const function leaves[LEAVES], tails[TAILS];
extern const nested deeps[DEEPS], throws[THROWS], jumps[JUMPS];

/* Calls one of each shape of arguments and results; how many were wrong. */
long shapes(u64 x);
#endif
