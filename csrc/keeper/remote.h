/*
 * System calls and calls of functions in a stopped process, by one of its threads (cave.S,
 * remote.c). Signals are blocked in that thread from kp_remote_begin on.
 */
#ifndef KEEPER_REMOTE_H
#define KEEPER_REMOTE_H

#include "keeper.h"

extern const u8 kp_cave[], kp_cave_back[], kp_cave_all[], kp_cave_data[], kp_cave_text[], kp_cave_end[];

/* kp_cave_data of cave.S: what the thread resumes with if nobody else sees to it. */
struct kp_cave_data {
	u64 mask;
	u64 r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, unused;
	u64 ip, flags, sp;
};

/* What is undone if this process dies: the result is a descriptor, or memory of now.r12 bytes. */
enum kp_remote_keep { KP_KEEP_NOTHING = 0, KP_KEEP_FD = 1, KP_KEEP_REGION = 2 };

struct kp_remote {
	struct kp_target *t;
	struct kp_thread *th;
	u64 cave;
	int used; /* another keeper's remains are there */
	int begun;
	u64 mask;
	struct user_regs_struct before; /* as the thread was stopped */
	struct user_regs_struct now; /* at the marker; r12, r14, rbp may be changed between calls */
};

/* Nothing is changed in the process on failure: -ENOSPC (no room for cave.S), -EAGAIN (no thread
 * can be taken now), -EOPNOTSUPP (32-bit code), -ESRCH, -ETIMEDOUT. Then kp_remote_end. */
int kp_remote_begin(struct kp_remote *r, struct kp_target *t);
/* The thread is where it was, with its signals; what is in r12, r14 stays. After a failure too. */
void kp_remote_end(struct kp_remote *r);
/* A system call's result, or a negative errno of our own (-ESRCH, -ETIMEDOUT). */
long kp_remote(struct kp_remote *r, long nr, const u64 *args, enum kp_remote_keep keep);
/* A function that changes rax, rcx, rdx, rsi, rdi, r8-r11 alone and ends by jmp *%r13. */
long kp_remote_function(struct kp_remote *r, u64 entry, u64 a, u64 b, u64 c);
/* Address there of a text of less than 128 bytes, until the next one; 0: failed. */
u64 kp_remote_text(struct kp_remote *r, const char *text);

#endif
