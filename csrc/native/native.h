/* What only Python's side needs beyond the shared headers: see the .c files beside it. */
#ifndef SHIM_NATIVE_H
#define SHIM_NATIVE_H

#include "shim_ctl.h"
#include "shim_types.h"

/* Initialises and locks the robust mutex of a control page, by the calling thread, for its
 * whole life. 0 or negative errno. */
int shim_native_hold(void *backend_lock);
/* The same thread lets go of it, before its memory goes: a dead backend's stays one. */
int shim_native_let_go(void *backend_lock);

/* FUTEX_WAIT on a shared word; timeout in ns, < 0: none. 0, -EAGAIN, -EINTR, -ETIMEDOUT. */
int shim_native_futex_wait(void *word, u32 seen, s64 timeout_ns);
int shim_native_futex_wake(void *word, int how_many);
/* Sleeps until a producer bumps ctl->wake_seq past 'seen', counted among its waiters meanwhile.
 * Results as shim_native_futex_wait. */
int shim_native_sleep(struct shim_ctl *ctl, u32 seen, s64 timeout_ns);

/* The same for ctl->trace_seq. */
int shim_native_trace_sleep(struct shim_ctl *ctl, u32 seen, s64 timeout_ns);

/* A shared mapping of a whole file that keeps no descriptor of it: an address, or 0. */
u64 shim_native_map(int fd, u64 size);
void shim_native_unmap(u64 at, u64 size);

/* inotify_init1(2), non-blocking; events (IN_*) of the file behind a descriptor of this process:
 * a watch descriptor. Negative errno. */
int shim_native_inotify(void);
int shim_native_watch(int inotify_fd, int fd, u32 events);
int shim_native_unwatch(int inotify_fd, int watch);

/* answer.c: answers what processes in other namespaces of process numbers ask, until ctl->ask_end is
 * set and ctl->ask_seq bumped and woken. */
void shim_native_answer(struct shim_ctl *ctl);

/* Two processes have one memory (kcmp(2)); false, too, where the kernel does not tell. */
int shim_native_same_memory(int pid, int other);

/* Slots of a new control page: all are in their first generation. */
void shim_native_slots(struct shim_ctl *ctl);

/* As many descriptors as RLIMIT_NOFILE lets this process have at most, and room for so many in the
 * kernel's table of them from now on (no more than there may be). 0 or negative errno. */
int shim_native_descriptors(int room);

/* This process is killed when the process that started it ends: parent, by the caller's word.
 * 0, or -ESRCH: it has ended already. */
int shim_native_die_with(int parent);

#endif
