/* What only Python's side needs beyond the shared headers: see the .c files beside it. */
#ifndef SHIM_NATIVE_H
#define SHIM_NATIVE_H

#include "shim_types.h"

/* Initialises and locks the robust mutex of a control page, by the calling thread, for its
 * whole life. 0 or negative errno. */
int shim_native_hold(void *backend_lock);

/* FUTEX_WAIT on a shared word; timeout in ns, < 0: none. 0, -EAGAIN, -EINTR, -ETIMEDOUT. */
int shim_native_futex_wait(void *word, u32 seen, s64 timeout_ns);
int shim_native_futex_wake(void *word, int how_many);

/* inotify_init1(2), non-blocking; events (IN_*) of the file behind a descriptor of this process:
 * a watch descriptor. Negative errno. */
int shim_native_inotify(void);
int shim_native_watch(int inotify_fd, int fd, u32 events);
int shim_native_unwatch(int inotify_fd, int watch);

#endif
