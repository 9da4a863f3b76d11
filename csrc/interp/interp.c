/*
 * The interpreter of verified programs, in C: one operation after the other, every register in
 * memory, nothing inlined. It is slow and plain, so that compiled code has something to be held
 * against where the reference (libbpf_shim/jit/interp.py) cannot be: in targets, with their maps,
 * faults and signals. Its code is copied into each image: no data, no address of its own, no
 * symbol outside. Source: RFC 9669; kernel/bpf/core.c.
 */
#include "interp.h"

enum { LD, LDX, ST, STX, ALU, JMP, JMP32, ALU64 };
enum { REG = 8, MODE = 0xe0, MEMSX = 0x80, ATOMIC = 0xc0, IND = 0x40 };
enum { ADD = 0x00, OR = 0x40, AND = 0x50, XOR = 0xa0, FETCH = 1, XCHG = 0xe1, CMPXCHG = 0xf1 };
enum { LOAD_ACQ = 0x100, STORE_REL = 0x110 };
enum { JA = 0x00, EXIT = 0x90, JCOND = 0xe0, SUB = 0x10, MUL = 0x20, DIV = 0x30, LSH = 0x60 };
enum { RSH = 0x70, NEG = 0x80, MOD = 0x90, MOV = 0xb0, ARSH = 0xc0, END = 0xd0 };
enum { JEQ = 0x10, JGT = 0x20, JGE = 0x30, JSET = 0x40, JNE = 0x50, JSGT = 0x60, JSGE = 0x70 };
enum { JLT = 0xa0, JLE = 0xb0, JSLT = 0xc0, JSLE = 0xd0 };

#define POISON 0xbad0bad0bad0bad0ULL /* what a call leaves in R1 to R5: no run may depend on it */

typedef u64 helper(u64, u64, u64, u64, u64, struct shim_run *);
typedef u64 image(u64 ctx, struct shim_run *run);

struct frame {
	u64 r[11];
	u64 rounds;
	struct shim_run *run;
	const struct interp_function *f;
};

static s64 sign(u64 value, u32 bits)
{
	return (s64)(value << (64 - bits)) >> (64 - bits);
}

static u64 swapped(const struct interp_op *at, u64 a)
{
	u32 bits = (u32)at->imm;

	if ((at->code & 7) == ALU64 || at->code & REG) /* unconditionally, or to big endian */
		a = __builtin_bswap64(a) >> (64 - bits);
	return bits == 64 ? a : a & ((1ULL << bits) - 1);
}

/* Division: by 0 gives 0, the rest of it is what was divided; the least number by -1 is itself. */
static u64 quotient(u64 a, u64 b, u32 bits, int is_signed, int rest)
{
	s64 x, y;

	if (!b)
		return rest ? a : 0;
	if (!is_signed)
		return rest ? a % b : a / b;
	x = sign(a, bits);
	y = sign(b, bits);
	if (y == -1)
		return rest ? 0 : 0 - (u64)x;
	return (u64)(rest ? x % y : x / y);
}

static u64 shifted(u32 kind, u64 a, u64 b, u32 bits)
{
	b &= bits - 1;
	if (kind == LSH)
		return a << b;
	return kind == RSH ? a >> b : (u64)(sign(a, bits) >> b);
}

static u64 alu(const struct interp_op *at, u64 a, u64 b)
{
	u32 kind = at->code & 0xf0, bits = (at->code & 7) == ALU64 ? 64 : 32;
	u64 mask = bits == 64 ? ~0ULL : 0xffffffff;

	if (kind == END)
		return swapped(at, a);
	a &= mask;
	b &= mask;
	switch (kind) {
	case ADD: a += b; break;
	case SUB: a -= b; break;
	case MUL: a *= b; break;
	case OR: a |= b; break;
	case AND: a &= b; break;
	case XOR: a ^= b; break;
	case NEG: a = 0 - a; break;
	case MOV: a = at->off ? (u64)sign(b, (u32)at->off) : b; break;
	case DIV:
	case MOD: a = quotient(a, b, bits, at->off == 1, kind == MOD); break;
	default: a = shifted(kind, a, b, bits); break;
	}
	return a & mask;
}

static int taken(const struct interp_op *at, u64 a, u64 b)
{
	u32 bits = (at->code & 7) == JMP ? 64 : 32;
	s64 x = sign(a, bits), y = sign(b, bits);

	if (bits == 32) {
		a = (u32)a;
		b = (u32)b;
	}
	switch (at->code & 0xf0) {
	case JEQ: return a == b;
	case JNE: return a != b;
	case JGT: return a > b;
	case JGE: return a >= b;
	case JLT: return a < b;
	case JLE: return a <= b;
	case JSGT: return x > y;
	case JSGE: return x >= y;
	case JSLT: return x < y;
	case JSLE: return x <= y;
	default: return (a & b) != 0;
	}
}

/* memory: one access each, of its width */

static u64 load(u64 at, u32 size)
{
	switch (size) {
	case 1: return *(volatile u8 *)at;
	case 2: return *(volatile u16 *)at;
	case 4: return *(volatile u32 *)at;
	default: return *(volatile u64 *)at;
	}
}

static void store(u64 at, u32 size, u64 value)
{
	switch (size) {
	case 1: *(volatile u8 *)at = (u8)value; break;
	case 2: *(volatile u16 *)at = (u16)value; break;
	case 4: *(volatile u32 *)at = (u32)value; break;
	default: *(volatile u64 *)at = value; break;
	}
}

static u64 exchange(u64 at, u32 size, u64 value)
{
	if (size == 4)
		return __atomic_exchange_n((u32 *)at, (u32)value, __ATOMIC_SEQ_CST);
	return __atomic_exchange_n((u64 *)at, value, __ATOMIC_SEQ_CST);
}

/* What was there before. */
static u64 compare_exchange(u64 at, u32 size, u64 old, u64 value)
{
	if (size == 4) {
		u32 was = (u32)old;

		__atomic_compare_exchange_n((u32 *)at, &was, (u32)value, 0, __ATOMIC_SEQ_CST,
					    __ATOMIC_SEQ_CST);
		return was;
	}
	__atomic_compare_exchange_n((u64 *)at, &old, value, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	return old;
}

static u64 change(u64 at, u32 size, u32 kind, u64 by)
{
	u64 old = load(at, size), was, value;

	for (;;) {
		value = kind == ADD   ? old + by
			: kind == OR  ? old | by
			: kind == AND ? old & by
				      : old ^ by;
		was = compare_exchange(at, size, old, value);
		if (was == old)
			return old;
		old = was;
	}
}

static void atomic(struct frame *w, const struct interp_op *at, u64 address)
{
	u32 kind = (u32)at->imm, size = at->size;
	u64 old;

	if (kind == LOAD_ACQ) { /* ordinary loads acquire and stores release (SDM 3A 9.2) */
		w->r[at->dst] = load(address, size);
	} else if (kind == STORE_REL) {
		store(address, size, w->r[at->src]);
	} else if (kind == CMPXCHG) {
		w->r[0] = compare_exchange(address, size, w->r[0], w->r[at->src]);
	} else {
		old = kind == XCHG ? exchange(address, size, w->r[at->src])
				   : change(address, size, kind & 0xf0, w->r[at->src]);
		if (kind & FETCH)
			w->r[at->src] = old;
	}
}

/* Where an access goes; outside of an arena: 0, and a load gives 0. */
static u64 address(struct frame *w, const struct interp_op *at, int loads)
{
	u64 where = w->r[loads ? at->src : at->dst] + (u64)(s64)at->off;

	if (!(at->flags & INTERP_ARENA))
		return where;
	where = (u32)w->r[loads ? at->src : at->dst] + (u64)(s64)at->off - (u32)w->f->arena_start;
	if (where <= w->f->arena_size - at->size)
		return where + w->f->arena;
	if (loads)
		w->r[at->dst] = 0;
	return 0;
}

static void memory(struct frame *w, const struct interp_op *at)
{
	u32 klass = at->code & 7;
	int swaps = (at->code & MODE) == ATOMIC && klass == STX;
	int loads = klass == LDX || (swaps && (u32)at->imm == LOAD_ACQ);
	u64 where = address(w, at, loads), value = klass == ST ? at->imm : w->r[at->src];

	if (at->flags & INTERP_ARENA && !where)
		return;
	if (swaps) {
		atomic(w, at, where);
	} else if (loads) {
		value = load(where, at->size);
		if ((at->code & MODE) == MEMSX)
			value = (u64)sign(value, 8 * at->size);
		w->r[at->dst] = value;
	} else if (!(at->flags & INTERP_QUEUE) || (u32)value < INTERP_NO_QUEUE) {
		store(where, at->size, value);
	}
}

/* what calls something */

static u64 called(struct frame *w, u64 fn)
{
	u64 r0 = ((helper *)fn)(w->r[1], w->r[2], w->r[3], w->r[4], w->r[5], w->run);

	w->r[1] = w->r[2] = w->r[3] = w->r[4] = w->r[5] = POISON;
	return r0;
}

/* helper_host_call() is given the function in r10 (csrc/runtime/hostcall.c). */
static u64 host(struct frame *w, const struct interp_op *at)
{
	u64 r0, di = w->r[1], si = w->r[2], dx = w->r[3], cx = w->r[4];
	register u64 r8 __asm__("r8") = w->r[5];
	register struct shim_run *r9 __asm__("r9") = w->run;
	register u64 r10 __asm__("r10") = at->imm;

	__asm__ volatile("call *%[fn]"
			 : "=a"(r0), "+D"(di), "+S"(si), "+d"(dx), "+c"(cx), "+r"(r8), "+r"(r9),
			   "+r"(r10)
			 : [fn] "b"(w->f->host)
			 : "r11", "cc", "memory");
	w->r[1] = w->r[2] = w->r[3] = w->r[4] = w->r[5] = POISON;
	return r0;
}

static u64 function(struct frame *w, const struct interp_op *at)
{
	struct interp_end end = interp_run(
		w->r[1], w->r[2], w->r[3], w->r[4], w->r[5], w->run,
		(const struct interp_function *)((const u8 *)at + (s64)at->imm));

	w->r[1] = w->r[2] = w->r[3] = w->r[4] = w->r[5] = POISON;
	return end.next ? ((image *)end.next)(end.r0, w->run) : end.r0;
}

static void load_by(struct frame *w, const struct interp_op *at)
{
	u64 value = ((helper *)at->imm)(w->r[at->src] + (u64)(s64)at->off, at->size, 0, 0, 0, w->run);

	w->r[at->dst] = (at->code & MODE) == MEMSX ? (u64)sign(value, 8 * at->size) : value;
}

static void store_by(struct frame *w, const struct interp_op *at)
{
	u64 value = (at->code & 7) == STX ? w->r[at->src] : at->imm;

	((helper *)w->f->store)(w->r[at->dst] + (u64)(s64)at->off, value, at->size, 0, 0, w->run);
}

/* False: it failed. */
static int packet(struct frame *w, const struct interp_op *at)
{
	u32 off = (u32)at->imm + ((at->code & MODE) == IND ? (u32)w->r[at->src] : 0);

	w->r[0] = ((helper *)w->f->packet)(w->r[6], off, at->size, 0, 0, w->run);
	w->r[1] = w->r[2] = w->r[3] = w->r[4] = w->r[5] = POISON;
	return (s64)w->r[0] >= 0;
}

static void dead(const struct interp_op *at, struct shim_run *run)
{
	__asm__ volatile("mov %0, %%r12\n\tjmp *%1" : : "r"(run), "a"(at->imm) : "memory");
	__builtin_unreachable();
}

/* What is no instruction of RFC 9669's; false: it ends the function. */
static int extra(struct frame *w, const struct interp_op *at)
{
	u64 half;

	switch (at->kind) {
	case INTERP_HELPER: w->r[0] = called(w, at->imm); return 1;
	case INTERP_FUNCTION: w->r[0] = function(w, at); return 1;
	case INTERP_HOST: w->r[0] = host(w, at); return 1;
	case INTERP_LOAD_BY: load_by(w, at); return 1;
	case INTERP_STORE_BY: store_by(w, at); return 1;
	case INTERP_CAST:
		half = (u32)w->r[at->src];
		w->r[at->dst] = half ? half | at->imm : 0;
		return 1;
	case INTERP_PACKET:
		if (packet(w, at))
			return 1;
		w->r[0] = 0;
		return 0;
	default: dead(at, w->run); return 0;
	}
}

/* How far it leads: 1 to the next one. */
static s64 jump(struct frame *w, const struct interp_op *at)
{
	u32 kind = at->code & 0xf0;

	if (kind == JA)
		return 1 + (s64)at->imm;
	if (kind == JCOND) { /* takes one of the budget, which stays 0 once it is */
		if (!w->rounds)
			return 1 + at->off;
		w->rounds--;
		return 1;
	}
	return taken(at, w->r[at->dst], at->code & REG ? w->r[at->src] : at->imm) ? 1 + at->off : 1;
}

/* A piece of the program begins; true: the run is over. */
static int over(const struct frame *w, const struct interp_op *at)
{
	const u8 *record = (const u8 *)w->f;
	u32 charge = ((
		const u32 *)(record +
			     w->f->charges))[at - (const struct interp_op *)(record + w->f->ops)];

	if (!charge)
		return 0;
	if (charge & INTERP_CALLED && !(charge & INTERP_ENDS) && w->run->left < INTERP_OVER)
		return 1;
	w->run->left -= charge & INTERP_COUNT;
	return charge & INTERP_ENDS && w->run->left < 0;
}

/* What it comes to. */
static u64 answer(const struct frame *w)
{
	const struct interp_function *f = w->f;

	if (!f->told) {
		w->run->left = INTERP_ENDED;
		return 1;
	}
	((helper *)f->told)(0, 0, 0, 0, 0, w->run);
	if (!f->skip)
		return (u32)f->answer;
	((helper *)f->skip)(w->run->regs, (u64)f->answer, 0, 0, 0, w->run);
	return 0;
}

struct interp_end interp_run(u64 r1, u64 r2, u64 r3, u64 r4, u64 r5, struct shim_run *run,
			     const struct interp_function *f)
{
	const struct interp_op *at = (const struct interp_op *)((const u8 *)f + f->ops);
	u32 words = f->depth / 8;
	u64 stack[words + 1], next;
	struct frame w = { { POISON, r1, r2, r3, r4, r5, POISON, POISON, POISON, POISON,
			     (u64)(stack + words) },
			   f->rounds,
			   run,
			   f };

	for (u32 i = 0; i < words; i++) /* nothing of the host's stack shows, and runs are repeatable */
		*(volatile u64 *)&stack[i] = 0;
	if (f->told && !run->tail_calls)
		run->left = f->left;
	for (;;) {
		u32 klass = at->code & 7;
		s64 by = 1;

		if (f->charges && over(&w, at)) {
			w.r[0] = answer(&w);
			break;
		}
		if (at->kind == INTERP_TAIL) {
			u64 ctx = w.r[1];

			next = called(&w, at->imm);
			w.r[0] = 0;
			if (next)
				return (struct interp_end){ ctx, next };
		} else if (at->kind) {
			if (!extra(&w, at))
				break;
		} else if (klass == ALU || klass == ALU64) {
			w.r[at->dst] = alu(at, w.r[at->dst], at->code & REG ? w.r[at->src] : at->imm);
		} else if (klass == LD) { /* of 64 bits */
			w.r[at->dst] = at->imm;
			by = 2;
		} else if (klass == LDX || klass == ST || klass == STX) {
			memory(&w, at);
		} else if ((at->code & 0xf0) == EXIT) {
			break;
		} else {
			by = jump(&w, at);
		}
		at += by;
	}
	return (struct interp_end){ w.r[0], 0 };
}
