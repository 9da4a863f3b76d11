#include "functions.h"

#define PROBED extern "C" __attribute__((noinline, noclone, visibility("default")))
#define EACH10(X, t) X(t##0) X(t##1) X(t##2) X(t##3) X(t##4) X(t##5) X(t##6) X(t##7) X(t##8) X(t##9)
#define EACH16(X) EACH10(X, ) X(10) X(11) X(12) X(13) X(14) X(15)
#define EACH40(X) EACH10(X, ) EACH10(X, 1) EACH10(X, 2) EACH10(X, 3)

counts *tally;
thread_local long alive;
thread_local jmp_buf *landing;
static volatile u64 sink;

/* Leaves: prologues that differ by what the number asks for. */
template <int N> static inline __attribute__((always_inline)) u64 leaf(u64 x)
{
	called(LEAF + N);
	if (N % 4 == 1) {
		volatile u64 on_stack[N + 1];

		for (int i = 0; i <= N; i++)
			on_stack[i] = x + i;
		x = on_stack[N] - N;
	} else if (N % 4 == 2) {
		u64 a = x * 3, b = x * 5, c = x * 7;

		__asm__ volatile("" : "+r"(a), "+r"(b), "+r"(c) : : "rbx", "r12", "r13", "r14");
		x += (a ^ a) + (b ^ b) + (c ^ c);
	} else if (N % 4 == 3 && x == ~0ull) {
		return returned(LEAF + N, 1);
	}
	return returned(LEAF + N, mix(x, N));
}
#define DEFINE(n) PROBED u64 leaf_##n(u64 x) { return leaf<n>(x); }
EACH40(DEFINE)
#undef DEFINE
#define NAME(n) leaf_##n,
const function leaves[LEAVES] = { EACH40(NAME) };
#undef NAME

/* Recursion, to a depth that the caller chooses. */
#define DEFINE(n) PROBED u64 deep_##n(u64 x, long depth) \
	{ \
		called(DEEP + n); \
		if (!depth) \
			return returned(DEEP + n, x); \
		u64 r = deep_##n(x + 1, depth - 1); \
		sink = r; \
		return returned(DEEP + n, r + 1); \
	}
EACH16(DEFINE)
#undef DEFINE
#define NAME(n) deep_##n,
const nested deeps[DEEPS] = { EACH16(NAME) };
#undef NAME

/* A chain of tail calls, TAILS - n long: all of them return at once. */
PROBED u64 tail_end(u64 x) { return x ^ 0x5a; }
#define TAIL_OF(n, next) PROBED u64 tail_##n(u64 x) \
	{ \
		called(TAIL + n); \
		returned(TAIL + n, 0); \
		return next(mix(x, n)); \
	}
TAIL_OF(15, tail_end) TAIL_OF(14, tail_15) TAIL_OF(13, tail_14) TAIL_OF(12, tail_13)
TAIL_OF(11, tail_12) TAIL_OF(10, tail_11) TAIL_OF(9, tail_10) TAIL_OF(8, tail_9)
TAIL_OF(7, tail_8) TAIL_OF(6, tail_7) TAIL_OF(5, tail_6) TAIL_OF(4, tail_5)
TAIL_OF(3, tail_4) TAIL_OF(2, tail_3) TAIL_OF(1, tail_2) TAIL_OF(0, tail_1)
#define NAME(n) tail_##n,
const function tails[TAILS] = { EACH16(NAME) };
#undef NAME

/* Exceptions through frames with something to destroy; odd ones catch and throw again. */
#define DEFINE(n) PROBED u64 throw_##n(u64 x, long depth) \
	{ \
		called(THROW + n); \
		Guard guard; \
		if (!depth) \
			throw thrown{ x }; \
		u64 r = 0; \
		if (n % 2) { \
			try { \
				r = throw_##n(x + 1, depth - 1); \
			} catch (thrown &t) { \
				t.value++; \
				throw; \
			} \
		} else { \
			r = throw_##n(x + 2, depth - 1); \
		} \
		sink = r; \
		return returned(THROW + n, r); \
	}
EACH16(DEFINE)
#undef DEFINE
#define NAME(n) throw_##n,
const nested throws[THROWS] = { EACH16(NAME) };
#undef NAME

#define DEFINE(n) PROBED u64 jump_##n(u64 x, long depth) \
	{ \
		called(JUMP + n); \
		if (!depth) \
			longjmp(*landing, (int)(x & 0xffff) + 1); \
		u64 r = jump_##n(x, depth - 1); \
		sink = r; \
		return returned(JUMP + n, r); \
	}
EACH16(DEFINE)
#undef DEFINE
#define NAME(n) jump_##n,
const nested jumps[JUMPS] = { EACH16(NAME) };
#undef NAME

/* Shapes of arguments and results. */
#define BODY(n, value) \
	{ \
		called(SHAPE + n); \
		returned(SHAPE + n, 0); \
		return value; \
	}
PROBED double shape_0(double a, double b) BODY(0, a * 2 + b)
PROBED long double shape_1(long double a) BODY(1, a * 3)
PROBED __int128 shape_2(__int128 a, u64 b) BODY(2, a * 3 + b)
PROBED pair shape_3(u64 a, u64 b) BODY(3, (pair{ b, a }))
PROBED large shape_4(u64 a) BODY(4, (large{ { a, a + 1, a + 2, a + 3, a + 4 } }))
PROBED u64 shape_5(u64 a, u64 b, u64 c, u64 d, u64 e, u64 f, u64 g, u64 h, u64 i)
	BODY(5, a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + 7 * g + 8 * h + 9 * i)
PROBED double _Complex shape_6(double a, double b) BODY(6, a + b * 1.0j)
PROBED long double _Complex shape_7(long double a, long double b) BODY(7, a + b * 1.0j)
PROBED large shape_8(large l) BODY(8, (large{ { l.words[4], l.words[3], l.words[2], l.words[1], l.words[0] } }))
PROBED __attribute__((target("avx"))) quad shape_9(quad a) BODY(9, a + a)
PROBED bool shape_10(u64 a) BODY(10, a & 1)
PROBED float shape_11(float a, u64 b) BODY(11, a + (float)b)
PROBED double shape_12(double a, double b, double c, double d, double e, double f, double g, double h,
		       double i, double j)
	BODY(12, a + b * 2 + c * 3 + d * 4 + e * 5 + f * 6 + g * 7 + h * 8 + i * 9 + j * 10)
PROBED void *shape_13(void *a) BODY(13, a)
PROBED char shape_14(char a, short b, int c) BODY(14, (char)(a + b + c))
PROBED u64 shape_15(u64 n, ...) BODY(15, n)

static __attribute__((target("avx"))) long vectors(u64 x)
{
	quad a = { (double)(x & 7), 1, 2, 3 }, r = shape_9(a);
	long bad = 0;

	for (int i = 0; i < 4; i++)
		bad += r[i] != 2 * a[i];
	return bad;
}

long shapes(u64 x)
{
	double d = (double)(x & 0xffff);
	__int128 w = (__int128)x << 40;
	pair p = shape_3(x, ~x);
	large l = shape_4(x), m = shape_8(l);
	long bad = 0;

	bad += shape_0(d, 1.5) != d * 2 + 1.5;
	bad += shape_1((long double)d) != (long double)d * 3;
	bad += shape_2(w, x) != w * 3 + x;
	bad += p.a != ~x || p.b != x;
	for (u64 i = 0; i < 5; i++)
		bad += l.words[i] != x + i || m.words[4 - i] != x + i;
	bad += shape_5(x, 2, 3, 4, 5, 6, 7, 8, 9) != x + 284;
	bad += __real__ shape_6(d, 7) != d || __imag__ shape_7(3, d) != d;
	if (__builtin_cpu_supports("avx"))
		bad += vectors(x);
	bad += shape_10(x) != (x & 1);
	bad += shape_11(1.5f, x & 0xff) != 1.5f + (float)(x & 0xff);
	bad += shape_12(d, 1, 1, 1, 1, 1, 1, 1, 1, 1) != d + 54;
	bad += shape_13(&bad) != &bad;
	bad += shape_14((char)x, 1, 2) != (char)((char)x + 3);
	bad += shape_15(x, 1.0, 2, 3) != x;
	return bad;
}
