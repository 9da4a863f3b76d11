/* What a thread knows of its own stack (stays.c), and of reads that may fault (quick.c). */
#ifndef AGENT_STAYS_H
#define AGENT_STAYS_H

#include "state.h"

#pragma GCC visibility push(hidden)

/* Of the thread whose number it is, by shim_thread.index. */
struct agent_stack {
	u32 tid;
	u8 looks : 7;
	u8 first : 1; /* it is the first thread's, which grows */
	u8 child; /* a child of vfork that has this thread's memory has changed its handlers */
	u8 may; /* reads of that run may fault */
	u8 asked; /* runs that have asked for the mask since it may have changed, up to a few */
	u64 hi;
	u64 lo; /* 0: not known */
	u32 run; /* shim_thread.runs of the run that may was found for */
	u32 open; /* shim_agent.masks as of when the mask was seen to be open; nothing has changed it since */
};
_Static_assert(sizeof(struct agent_stack) == 32, "of each thread");

/* The thread's block, if it is as usual; NULL. */
const struct shim_thread *agent_usual(void);
/* Its stack, if it is in a run on it and has so many bytes left; NULL. */
struct agent_stack *agent_room(const struct shim_thread *t, u64 bytes);

/* Of the thread that runs, or the one that a child of vfork has the memory of: what is known of its mask of signals
 * is so no more. */
void agent_stays_forget(void);
/* Such a child's handlers are not the thread's. */
void agent_stays_child(void);

/* quick.c. A link of SHIM_QUICK_LINK has come. */
void agent_quick_asked(void);
/* One, or a session with one, is about to go: its place is not met any more. */
void agent_quick_going(void);
/* From now on masks change that nobody sees: each run asks. */
void agent_quick_unseen(void);
/* No such link may be left: gives the process its signals back then. Nobody is in a run. -EBUSY: who knows
 * our handler now? */
long agent_quick_look(void);
/* The same, whatever links there are; others may be in runs. */
long agent_quick_end(void);
void agent_quick_forked(void);

/* Nobody puts handlers of quick.c's from here to the other; 0: they may be there already. */
int agent_quick_hold(void);
void agent_quick_release(void);

/* alone.c: a conversation in a thread that may be in a command's run, or its end; there is one at a time. */
void agent_alone_shut(int on);
/* Runs of an agent_run's begin, in the thread. */
void agent_alone_run(const struct shim_thread *t);
/* Whose command it was may have been another thread of the parent's. */
void agent_alone_forked(void);

/* Handlers of faults. */
enum {
	SIGBUS_ = 7,
	SIGSEGV_ = 11,
	BUS_MCEERR_AO = 5, /* a page went bad that nobody reads now */
	NR_RT_TGSIGQUEUEINFO = 297,
	AGENT_FAULT_FLAGS = 4 | 0x10000000 | 0x04000000, /* SIGINFO RESTART RESTORER */
	AGENT_FAULT_ROOM =
		32 << 10, /* a signal's frame, with all registers there are, and what is called then */
};
#define AGENT_FAULTS ((1ull << (SIGBUS_ - 1)) | (1ull << (SIGSEGV_ - 1)))

struct agent_siginfo {
	s32 signo, errno_, code, pad;
	u64 addr;
};

struct agent_context { /* struct ucontext, as far as it matters */
	u64 flags, link;
	u64 stack[3];
	u64 r[16], ip;
};

/* No fault: no instruction makes it again. */
static inline int agent_sent(int signo, const struct agent_siginfo *info)
{
	return info->code <= 0 || (signo == SIGBUS_ && info->code == BUS_MCEERR_AO);
}

/* A process may send itself a signal and say of it what it likes. */
static inline int agent_by_call(u64 ip)
{
	u16 before = 0;

	return !shim_copy_asking(&before, ip - 2, 2) && before == 0x050f; /* syscall */
}

void agent_tick_restorer(void);

/* guarded.S: 0, or the number of bytes with the NUL (size: there is none); -EFAULT. No stack is used. A fault
 * between agent_guarded and agent_guarded_end goes on at agent_guarded_fault. */
long agent_guarded_copy(void *dst, u64 src, u64 len);
long agent_guarded_string(void *dst, u64 src, u64 size);
extern const u8 agent_guarded[], agent_guarded_end[], agent_guarded_fault[];

#pragma GCC visibility pop
#endif
