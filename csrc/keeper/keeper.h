/*
 * The keeper's own contract: one stopped target at a time, its threads, its memory.
 *
 * Functions return >= 0 or a negative errno. Every system call that touches a target is
 * preceded by kp_step(), so that the tests can kill the keeper before each of them.
 */
#ifndef KEEPER_H
#define KEEPER_H

#include <signal.h>
#include <sys/types.h>
#include <sys/user.h>

#include "shim_agent.h"
#include "shim_keeper.h"

enum {
	KP_MAX_THREADS = 16384,
	KP_MAX_RANGES = 65536, /* vm.max_map_count's default is 65530 */
	KP_STOP_MS = 1000,
	KP_RELEASE_MS = 1000,
	KP_SERVICE_STACK = 65536, /* bytes below and at the service frame that are the service's */
	KP_STACK_SCAN = 16 << 20, /* bytes of one thread's stack that are looked at */
};

enum kp_state { KP_RUNNING, KP_STOPPED, KP_GONE };

struct kp_thread {
	pid_t tid;
	enum kp_state state;
	int sig; /* of the signal-delivery-stop it stands in: goes on at PTRACE_DETACH */
	int event; /* SIGTRAP | 0x80 in a system-call-stop */
	int in_service; /* at the marker: its registers are those at kp_target.resume */
	struct user_regs_struct regs; /* valid after kp_threads_regs */
};

struct kp_target {
	pid_t pid; /* 0: none */
	int proc; /* /proc/PID */
	int mem; /* /proc/PID/mem */
	int nthreads;
	int held; /* stays stopped when it is released (follow.c) */
	int called; /* kp_call has been used in this stop */
	int moved; /* ... and its thread is to go on elsewhere than it was stopped */
	struct kp_thread *caller; /* by it, and as it was stopped */
	struct user_regs_struct before;
	u64 frame; /* the service's */
	int talking; /* ... and runs: a conversation, whose socket's other end is `peer`, too (talk.c) */
	int peer;
	u64 resume; /* what the called thread resumes with: shim_service_frame from r15 on */
	struct kp_thread threads[KP_MAX_THREADS];
};

/* Dies here if this is the step that LIBBPF_SHIM_KEEPER_DIE_AT names. */
void kp_step(void);
long kp_now_ms(void);

/* stop.c. kp_stop: all threads stopped, their number; -ESRCH, -EPERM, -EBUSY (traced by somebody,
 * or a thread cannot stop now, as a vfork parent), -E2BIG. On failure nothing stays stopped. */
int kp_stop(struct kp_target *t, pid_t pid);
/* Threads that cannot be let go at once are let go when they stop (kp_wait). */
int kp_release(struct kp_target *t);
/* follow.c. kp_follow: while the process waits for us; tid: its thread that execs. kp_await: once it goes on: 0, it stands at the
 * beginning of the new image; -ETIMEDOUT, -ESRCH: it does not, and is left alone. */
int kp_follow(const struct kp_target *t, pid_t pid, pid_t tid);
int kp_await(struct kp_target *t, pid_t pid, int ms);
int kp_let_go(struct kp_target *t);
int kp_followed(pid_t tid, int status); /* a stop that a wait has taken: nonzero, it is kp_await's */
/* Takes what waitpid has; then, if nothing came, sleeps until SIGCHLD or the deadline. */
void kp_wait(struct kp_target *t, long deadline);
int kp_resume(struct kp_thread *th, int request, int sig);
int kp_get_regs(struct kp_thread *th, struct user_regs_struct *regs);
int kp_set_regs(struct kp_thread *th, const struct user_regs_struct *regs);

int kp_open_mem(int proc, const char *path); /* /proc/PID/mem, to read alone if it has to be */
/* mem.c: whole transfers through /proc/PID/mem (text too). -EFAULT, -ESRCH. */
int kp_read(struct kp_target *t, u64 addr, void *buf, size_t len);
int kp_write(struct kp_target *t, u64 addr, const void *buf, size_t len);
/* pages.c: the same for many small pieces, from kp_pages_begin to kp_pages_end, which answers the first
 * failure of a write; a page changes with one write, pages in the order in which they are changed. What
 * is read is what was written. */
void kp_pages_begin(void);
int kp_pages_read(struct kp_target *t, u64 addr, void *buf, size_t len);
int kp_pages_write(struct kp_target *t, u64 addr, const void *buf, size_t len);
int kp_pages_end(struct kp_target *t);
/* One line of /proc/PID/maps at a time; nonzero from the callback ends the walk and is returned. */
struct kp_mapping {
	u64 lo, hi, off, ino;
	u32 major, minor;
	char perms[5];
	const char *path;
};
int kp_maps(int proc, int (*each)(const struct kp_mapping *m, void *arg), void *arg);

int kp_call(struct kp_target *t, const struct shim_kp_call *call); /* call.c */
/* Its parts: a thread is pointed at the service and run until `until`, which is asked at each stop at a
 * system call, is nonzero, which is answered; what the agent has answered, once it is at the marker. kp_run
 * goes on with one that was pointed. */
typedef int kp_until(struct kp_target *t, struct kp_thread *th);
int kp_point(struct kp_target *t, const struct shim_kp_call *call, kp_until *until);
int kp_run(struct kp_target *t, struct kp_thread *th, long deadline, kp_until *until);
int kp_result(struct kp_target *t);
int kp_at_marker(struct kp_target *t, struct kp_thread *th);
int kp_behind_marker(struct kp_thread *th); /* 1; 0: before it; -errno */
int kp_in_service(const struct user_regs_struct *regs, u64 frame);
int kp_synchronous(const struct kp_thread *th); /* its own instructions have caused the signal */
/* talk.c. kp_talk: as kp_call by SHIM_PAIR, but the thread runs on, and `peer` is the other end of its
 * socket. -ENOTCONN: that could not be taken, nothing was said. kp_keep_talking: after stops were taken.
 * kp_hang_up: it is at the marker; -ETIMEDOUT: it has gone home without us. */
int kp_talk(struct kp_target *t, const struct shim_kp_call *call);
void kp_keep_talking(struct kp_target *t);
int kp_hang_up(struct kp_target *t);
int kp_caused(const struct kp_target *t, const struct kp_thread *th);
/* The agent's lock is taken: for a moment none of its threads but the holder has it, until we come
 * again. -EBUSY. */
int kp_want_lock(struct kp_target *t, u64 root);
int kp_uncall(struct kp_target *t); /* after kp_call: its thread is where it was stopped */
/* Registers as the kernel would resume the thread with, where a system call was interrupted. */
void kp_restart_syscall(struct user_regs_struct *regs);
int kp_patch(struct kp_target *t, const struct shim_kp_window *win, u32 n); /* patch.c */
int kp_like(struct kp_target *t, const struct shim_kp_like *req); /* like.c: of a stopped process */
/* detach.c: 1: the lock's holder stands still with the tables half changed; one that has ended does not. */
int kp_locked(const struct kp_target *t, u32 holder);
/* scan.c. kp_threads_regs reads every thread's registers (of the called one: from its frame).
 * kp_scan: 0, or -EAGAIN if a register or a signal frame points into a window's scan range. */
int kp_threads_regs(struct kp_target *t);
/* Is *word the instruction pointer of a signal frame, as far as n words tell? */
int kp_signal_frame(const u64 *word, size_t n);
u64 kp_stack_end(struct kp_target *t, const struct user_regs_struct *r);
/* mem.c. A thread's number to itself: in a namespace of its own it is not ours. 0: gone. */
u32 kp_own_number(const struct kp_target *t, pid_t tid);
int kp_scan(struct kp_target *t, const struct shim_kp_window *win, u32 n);
/* counter.c: before a link, whose record lies at 'record', leaves its site's list. where: the site
 * whose window says that the module is there; last: no other link there has its counter. */
int kp_counter_down(struct kp_target *t, const struct shim_site *where, u64 record,
		    const struct shim_site_link *link, int last);
int kp_detach(struct kp_target *t, pid_t pid, const struct shim_kp_detach *req); /* detach.c */
/* inject.c, eject.c. why: the reason of a refusal, in words, if there is more to say than errno. */
int kp_inject(struct kp_target *t, pid_t pid, const struct shim_kp_inject *req, char *why, size_t room);
int kp_gave(pid_t pid); /* kp_inject has */
int kp_eject(struct kp_target *t, pid_t pid, const struct shim_kp_eject *req);
/* seccomp.c. 0: what the agent and the keeper need is allowed in every thread; else -EACCES. */
int kp_seccomp(struct kp_target *t, char *why, size_t room);
/* The same as far as it can be told without stopping anybody. */
int kp_seccomp_ahead(pid_t pid, char *why, size_t room);
/* again.c: a call of a thread that stands still, if our stop alone has ended it. t NULL: a filter is not
 * looked for. */
void kp_begin_again(const struct kp_target *t, struct kp_thread *th);
/* May a stopped thread make the agent's calls? One whose filters cannot be read: if it did so when the
 * library came, that is, if the agent was not injected. */
int kp_may_call(const struct kp_target *t, pid_t tid, int injected);
/* May a stopped thread make the call by which an interrupted sleep goes on? 0: not for certain. */
int kp_restart_allowed(const struct kp_target *t, pid_t tid);
/* calls.c: the jumps at system calls, unless one of them has a link still; how many. */
int kp_restore_calls(struct kp_target *t, u64 root_at, const struct shim_agent *root,
		     const struct shim_site *sites);
void kp_reap(struct kp_target *t, const struct shim_kp_session *session); /* reap.c */

#endif
