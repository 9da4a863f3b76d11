/* Unwind tables: made by the backend (elf/cfi.py), read by walkers in targets (runtime/unwind.c). */
#ifndef SHIM_UNWIND_TABLE_H
#define SHIM_UNWIND_TABLE_H

#include "shim_types.h"

/*
 * How a module's code is unwound where it keeps no frame pointers: a table in shared memory, `rows`
 * sorted u32 (address - base), and behind them as many rules. A row holds until the next one.
 */
enum {
	SHIM_UNWIND_NONE = 0, /* nothing known: by rbp */
	SHIM_UNWIND_RSP = 1, /* CFA = rsp + cfa */
	SHIM_UNWIND_RBP = 2, /* CFA = rbp + cfa */
	SHIM_UNWIND_RBP_AT = 3, /* CFA = *(rbp + cfa); the caller's rbp is at rbp */
	SHIM_UNWIND_PLT = 4, /* CFA = rsp + 8, and 8 more from byte `cfa` of a 16-byte stub on */
	SHIM_UNWIND_SIGNAL = 5, /* a struct ucontext stands at rsp */
	SHIM_UNWIND_END = 6, /* nothing called this */
	SHIM_UNWIND_SAME = 0, /* rbp is the caller's; else it was saved at CFA + rbp */
	SHIM_UNWIND_LOST = 1, /* nobody knows rbp */
};

struct shim_unwind_rule {
	s32 cfa;
	s16 rbp;
	u8 how; /* SHIM_UNWIND_* */
	u8 pad;
};
SHIM_ASSERT(sizeof(struct shim_unwind_rule) == 8);

/* One module in this process; rows 0: it keeps frame pointers, or nothing is known. */
struct shim_unwind_module {
	u64 start, end; /* of its code */
	u64 base; /* what the table's addresses count from */
	u64 table; /* address of it, in this process */
	u32 rows;
	u32 session; /* index into sessions[] */
	u64 file; /* what to add to an address for its offset in the file */
	u8 build_id[20];
	u32 has_id;
};
SHIM_ASSERT(sizeof(struct shim_unwind_module) == 72);
enum { SHIM_MAX_UNWIND = 512 };

#endif
