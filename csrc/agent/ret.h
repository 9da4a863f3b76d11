/* Return probes: the data of ret.c, and where a thread's stack lies. */
#ifndef AGENT_RET_H
#define AGENT_RET_H

#include "shim_types.h"

/* As in slots.S. The last RET_SHARED blocks are for all threads that find no other. */
enum { RET_DEPTH = 64, RET_BLOCKS = 256, RET_SLOTS = RET_DEPTH * RET_BLOCKS, RET_SHARED = 128 };

/* One thread's slots. Copied by fork. Changed by its thread and what interrupts that. */
struct ret_block {
	u64 key; /* shim_thread.fs_base; 0: free */
	u64 lo, hi; /* of the thread's own stack, once learned */
	u32 tid;
	u32 next; /* where a free slot is looked for first */
	u32 learned; /* times that lo and hi were looked for */
	u32 ngone;
	u64 hint; /* address of the slot that lean.S looks at; 0: it is shared */
	u32 full; /* all slots went on when one was looked for last, and none has been found over */
	u32 pad;
	struct {
		u64 where, back;
	} gone[8]; /* the last ones that were dropped on no more than a suspicion */
};

struct ret_entry {
	u64 site;
	u64 addr; /* of the site: the record may have been used again */
};

/* As in slots.S. original: where the invocation was called from, whatever lies between. body: where the
 * slot's call leads. */
struct ret_place {
	u64 original, body;
};

/* Of a slot. back: where it leads, an address of the program, or another slot. */
struct ret_owner {
	u64 owner, back;
};

enum { RET_COPIES = 2 }; /* words on other stacks that a hit looks at while it is so */
enum { RET_SLOT = 16, RET_INTO = 6, RET_BYTES = RET_SLOTS * RET_SLOT };

/* Bounds of the calling thread's own stack, from /proc/self/maps, if sp is on it. */
void agent_stack_bounds(u64 sp, u64 fs_base, u64 *lo, u64 *hi);

#endif
