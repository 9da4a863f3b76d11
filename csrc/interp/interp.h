/*
 * What an interpreted image consists of (LIBBPF_SHIM_TIER=0): this folder's code, which is the same in
 * each, and records and operations that libbpf_shim/jit/tier0.py writes. An operation is an eBPF
 * instruction with its addresses filled in, or one of enum interp_kind.
 */
#ifndef INTERP_H
#define INTERP_H

#include "shim_run.h"

enum interp_kind {
	INTERP_BPF =
		0, /* as RFC 9669 has it; imm: sign-extended; of a jump without condition: where to */
	INTERP_HELPER = 1, /* imm: its address */
	INTERP_FUNCTION = 2, /* imm: from this operation to the record of a function */
	INTERP_TAIL = 3, /* imm: address of helper 12 */
	INTERP_LOAD_BY = 4, /* imm: address of what loads (address, size) */
	INTERP_STORE_BY = 5, /* by interp_function.store */
	INTERP_PACKET = 6, /* LD_ABS and LD_IND, by interp_function.packet; -1 ends the function */
	INTERP_CAST = 7, /* an address of the arena; imm: the upper half of what is not NULL */
	INTERP_DEAD = 8, /* imm: SHIM_SYM_UNREACHABLE */
	INTERP_HOST =
		9, /* a function of the application's, by interp_function.host; imm: its address */
};

/* QUEUE: a store into queue_mapping, none of what is no queue. ARENA: an access of the arena. */
enum { INTERP_QUEUE = 1, INTERP_ARENA = 2, INTERP_NO_QUEUE = 0xffff };

struct interp_op {
	u8 code, kind, dst, src;
	s16 off;
	u8 size; /* bytes of an access */
	u8 flags;
	u64 imm;
};
SHIM_ASSERT(sizeof(struct interp_op) == 16);

/* Addresses are 0 where the function needs none of them. */
struct interp_function {
	u64 arena, arena_start, arena_size; /* where it lies, its address for programs, bytes */
	u64 store, packet, host; /* SHIM_FUNC_HOST_STORE, _PACKET_LOAD, _HOST_CALL */
	s64 ops; /* from this record to the function's first operation */
	u32 depth; /* bytes of stack, a multiple of 8 */
	u32 rounds; /* of may_goto */
	/* Where instructions are counted (libbpf_shim/jit/charge.py): from this record to a u32 for each
	 * operation, 0: they are not. Of the program's first function, else 0: SHIM_FUNC_BUDGET_ENDED, what is
	 * left as a run begins, what it comes to, and bpf_override_return() if that is to be called with it. */
	s64 charges;
	u64 told;
	s64 left, answer;
	u64 skip;
};
SHIM_ASSERT(sizeof(struct interp_function) == 104);

/* Of a charge: how many instructions, and what charge.py says of it. */
enum { INTERP_COUNT = 0x3fffffff, INTERP_ENDS = 1 << 30, INTERP_CALLED = 1u << 31 };
enum { INTERP_OVER = -(1 << 30), INTERP_ENDED = -0x7fffffff - 1 };

/* next: an image that the program goes on in, with the context r0, in the place of this one; or 0. */
struct interp_end {
	u64 r0, next;
};

/* Runs one function with R1 to R5, to its end. */
struct interp_end interp_run(u64 r1, u64 r2, u64 r3, u64 r4, u64 r5, struct shim_run *run,
			     const struct interp_function *f);

#endif
