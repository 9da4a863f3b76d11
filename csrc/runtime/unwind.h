/* Between stack.c, which walks a stack, and unwind.c, which knows modules' tables. */
#ifndef SHIM_UNWIND_H
#define SHIM_UNWIND_H

#include "runtime.h"

/* A part of a stack that was copied at once: neighbouring frames lie close together. */
enum { STACK_WINDOW = 32 };
struct stack_window {
	u64 at, size; /* bytes */
	u64 word[STACK_WINDOW];
};

/* One frame's registers. call: ip is a return address, so the call is before it. */
struct frame {
	u64 ip, sp, fp;
	bool call;
};

/* stack.c: a word of this process's memory; false: it cannot be read. */
bool stack_word(struct stack_window *w, u64 from, u64 *value);

/* unwind.c: the rule at an address of code; false: there is none, the frame pointer decides. */
bool unwind_rule(u64 ip, struct shim_unwind_rule *rule);
/* Build-id (20 bytes) of the module at an address, and the address's offset in its file; false: it is
 * not known. */
bool unwind_build_id(u64 ip, u8 *id, u64 *offset);
/* The caller's frame; false: there is none, or it cannot be read. */
bool unwind_step(struct stack_window *w, struct frame *f, const struct shim_unwind_rule *rule);

#endif
