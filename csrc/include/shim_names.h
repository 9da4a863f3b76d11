/*
 * Two numbers for one process or thread: its own, by which its system calls know it, and its sessions',
 * by which programs and tools do. They differ where the process lives in a namespace of process
 * numbers of its own ("foreign"). Struct shim_thread, records, slots and all that programs are told have
 * the sessions'.
 */
#ifndef SHIM_NAMES_H
#define SHIM_NAMES_H

#include "shim_ctl.h"
#include "shim_types.h"

struct shim_names {
	u64 view; /* whose numbers sessions have here: inode of the namespace; 0: no session was here */
	u32 foreign; /* they are not its own */
	u32 pid; /* of this process, in their numbers; foreign only, 0: not known */
	u64 ns; /* the namespace it lives in, its inode; foreign only, 0: not known */
};

#pragma GCC visibility push(hidden)
extern struct shim_names shim_names;

/* ask.c. Answers of the session's backend, >= 0, or a negative errno: -ETIMEDOUT, -ESRCH. Bounded by two
 * seconds. ctl: stays mapped meanwhile. start: of CHILD, or NULL. */
long shim_ask(struct shim_ctl *ctl, u32 what, u32 pid, u32 number, u64 *start);
/* What /proc has of a thread, by the session's number for it: bytes. */
long shim_ask_file(struct shim_ctl *ctl, u32 pid, const char *name, void *text, u64 room);
/* The same where it lies, until it is given back: the length in answer; NULL: there is none. */
struct shim_ask *shim_ask_open(struct shim_ctl *ctl, u32 pid, const char *name);
void shim_ask_close(struct shim_ask *ask);
/* How many namespaces of process numbers a thread lives below the session's, and its number in each, as
 * in an array of struct upid. */
enum { SHIM_UPIDS = 4 };
u32 shim_ask_level(struct shim_ctl *ctl, u32 pid, u64 upid[2 * SHIM_UPIDS]);
#pragma GCC visibility pop

#endif
