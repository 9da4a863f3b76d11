/*
 * What a run of an isolated program has been handed of the host's, and what it holds: in a frame of
 * its image's, which the program cannot reach. SHIM_FUNC_HELD (csrc/runtime/helpers_held.c) looks there
 * whatever was proved of the program. libbpf_shim/jit/held.py has the same layout.
 */
#ifndef SHIM_HELD_H
#define SHIM_HELD_H

#include "shim_types.h"

/* What the class knows of the host's objects, constants of the image. Kinds of objects are numbers below
 * 64 (nodes of the policy). */
enum {
	SHIM_HOST_ARG = 0, /* at a, in struct shim_pt_regs, is the address of a node */
	SHIM_HOST_STATE = 1, /* a node is at the address in a and b */
	SHIM_HOST_LINK = 2, /* at a, in a node, is the address of node b */
	SHIM_HOST_WRITE = 3 /* bytes [a, b) of a node may be written */
};

struct shim_host_row {
	u32 kind, node;
	u32 a, b;
};

struct shim_hosts {
	u64 nr;
	struct shim_host_row row[];
};

enum { SHIM_HELD_OBJECTS = 32, SHIM_HELD_RECORDS = 4 };

struct shim_held_object {
	u64 addr; /* 0: none */
	u32 node;
	u32 acquired; /* by a function that gives what is to be given back */
};

struct shim_held_record {
	u64 real; /* in the ring; 0: none */
	u64 given; /* what the program knows as the record, in its window */
	u64 size;
};

struct shim_held {
	u64 hosts; /* struct shim_hosts * */
	u64 room; /* where records that are given lie */
	u64 room_size;
	u32 next; /* objects that have been written, and which is the next */
	u32 keeps; /* records and locks */
	u64 lock; /* 0: none */
	struct shim_held_record record[SHIM_HELD_RECORDS];
	struct shim_held_object object[SHIM_HELD_OBJECTS];
	u64 frame; /* R10 of the function whose helper calls back */
};
SHIM_ASSERT(sizeof(struct shim_held) == 40 + 96 + 512 + 8);

/* Operations, in R5. Answers of SHIM_HELD_OUTSIDE: the program is to end. */
enum {
	SHIM_HELD_LOAD = 0, /* (address, bytes): as SHIM_FUNC_HOST_PEEK */
	SHIM_HELD_STORE = 1, /* (address, value, bytes): 0 */
	SHIM_HELD_WRITE = 2, /* (address, from, bytes): as bpf_probe_write_user() */
	SHIM_HELD_OBJECT = 3, /* (address, nodes as bits, flags): 0, it is one of those */
	SHIM_HELD_LEARN = 4, /* (address, node, acquired): 0 */
	SHIM_HELD_READ_USER = 5, /* (to, 8, from): as bpf_probe_read_user() */
	SHIM_HELD_READ_KERNEL = 6, /* as bpf_probe_read_kernel() */
	SHIM_HELD_RESERVE = 7, /* (ring, bytes, flags): as bpf_ringbuf_reserve() */
	SHIM_HELD_SUBMIT = 8, /* (record, flags): 0 */
	SHIM_HELD_DISCARD = 9,
	SHIM_HELD_LOCK = 10, /* (lock): 0 */
	SHIM_HELD_UNLOCK = 11,
	SHIM_HELD_OUTSIDE = 1
};
enum { SHIM_HELD_OR_NULL = 1, SHIM_HELD_RELEASE = 2 }; /* of an object */

#endif
