/* Inside of the agent: what its files share. Contract for others: agent.h, shim_agent.h. */
#ifndef AGENT_STATE_H
#define AGENT_STATE_H

#include <stddef.h>

#include "agent.h"
#include "shim_cpu.h"
#include "shim_names.h"
#include "shim_sys.h"

/* Numbers of the kernel's x86-64 ABI; no system header defines only these. */
enum {
	NR_READ = 0,
	NR_WRITE = 1,
	NR_OPEN = 2,
	NR_CLOSE = 3,
	NR_FSTAT = 5,
	NR_MMAP = 9,
	NR_MPROTECT = 10,
	NR_MUNMAP = 11,
	NR_SIGPROCMASK = 14,
	NR_PREAD = 17,
	NR_PWRITE = 18,
	NR_SCHED_YIELD = 24,
	NR_MREMAP = 25,
	NR_MADVISE = 28,
	NR_NANOSLEEP = 35,
	NR_GETPID = 39,
	NR_SOCKET = 41,
	NR_CONNECT = 42,
	NR_SENDTO = 44,
	NR_RECVMSG = 47,
	NR_SOCKETPAIR = 53,
	NR_SETSOCKOPT = 54,
	NR_GETSOCKOPT = 55,
	NR_FTRUNCATE = 77,
	NR_MKDIR = 83,
	NR_UNLINK = 87,
	NR_READLINK = 89,
	NR_PTRACE = 101,
	NR_GETUID = 102,
	NR_GETEUID = 107,
	NR_GETPPID = 110,
	NR_SIGALTSTACK = 131,
	NR_PRCTL = 157,
	NR_GETRLIMIT = 97,
	NR_GETTID = 186,
	NR_FUTEX = 202,
	NR_GETDENTS64 = 217,
	NR_CLOCK_GETTIME = 228,
	NR_TGKILL = 234,
	NR_OPENAT = 257,
	NR_UNLINKAT = 263,
	NR_MEMBARRIER = 324,
};

enum {
	E_NOENT = 2,
	E_PERM = 1,
	E_SRCH = 3,
	E_INTR = 4,
	E_AGAIN = 11,
	E_NOMEM = 12,
	E_BADF = 9,
	E_ACCES = 13,
	E_FAULT = 14,
	E_BUSY = 16,
	E_EXIST = 17,
	E_XDEV = 18,
	E_INVAL = 22,
	E_NOSPC = 28,
	E_RANGE = 34,
	E_PROTO = 71,
	E_OPNOTSUPP = 95,
	E_NOTCONN = 107,
	E_TIMEDOUT = 110,
	E_STALE = 116,
};

enum {
	AGENT_THREADS = 4096,
	AGENT_PAGE = 4096,
	O_RDWR_ = 2,
	O_CREAT_ = 0100,
	O_EXCL_ = 0200,
	O_NOFOLLOW_ = 0400000,
	O_DIRECTORY_ = 0200000,
	O_CLOEXEC_ = 02000000,
	PROT_R = 1,
	PROT_RW = 3,
	PROT_RX = 5,
	MAP_SHARED_ = 1,
	MAP_PRIVATE_ = 2,
	MAP_FIXED_ = 0x10,
	MAP_ANON_ = 0x20,
	MAP_NORESERVE_ = 0x4000,
	MAP_NOREPLACE_ = 0x100000,
};

/* Private to this process and not in struct shim_agent: nobody outside needs it. */
struct agent_private {
	u64 sysinfo_ehdr;
	u32 fsgsbase; /* rdfsbase may be used */
	u32 euid;
	u64 tid_at; /* struct agent_host's */
	u32 ready; /* tables are mapped */
	s32 ptrace_errno; /* 0: ptrace works here as far as one can tell */
	u32 yama; /* ... if this process allows it to who asks (mailbox.c) */
	u64 start_time; /* of this process as sessions see it, clock ticks; 0: not read yet */
	u64 here; /* a page that fork children have not; 0: they find the table of threads wiped */
	u64 lock_since; /* which child of vfork had root.lock last, and its start (root.c) */
	char run_dir[2][96]; /* candidates, "" if none */
};

extern struct shim_agent shim_agent_root __attribute__((visibility("protected")));
#pragma GCC visibility push(hidden)
extern struct agent_private agent_private;
extern u32 agent_fences; /* membarrier(2) is refused: each hit orders its own accesses */

/* root.c. Maps the tables, once; 0 or -ENOMEM. The lock is a trylock for 'patience' pauses, after
 * which a dead holder's is taken over: 0 or -EBUSY. */
long agent_tables(void);
long agent_lock(u32 patience);
void agent_unlock(void);
/* Between two tries of what another thread has: yields at first, then naps of 50 us. A hundred threads
 * that yield may be over in a millisecond, in which who is waited for has had no turn. */
void agent_pause(u32 tries);

static inline struct shim_site *agent_sites(void)
{
	return (struct shim_site *)shim_agent_root.sites;
}

static inline struct shim_site_link *agent_links(void)
{
	return (struct shim_site_link *)shim_agent_root.links;
}

static inline struct shim_thread *agent_threads(void)
{
	return (struct shim_thread *)shim_agent_root.threads;
}

static inline u64 agent_fs_base(void)
{
	u64 base;

	if (agent_private.fsgsbase)
		__asm__ volatile("rdfsbase %0" : "=r"(base));
	else
		__asm__ volatile("movq %%fs:0, %0" : "=r"(base));
	return base;
}

/* thread.c. The calling thread's block, made at its first hit; NULL: no room, or (in a fork
 * child) the child's state could not be put right. */
struct shim_thread *agent_thread(void);
/* The same, and the kernel is asked who this is. */
struct shim_thread *agent_thread_asked(void);
/* stays.c: a table of its own. This thread's own number, if its block is as usual; 0: not known. */
u32 agent_known_tid(void);
u64 agent_stays(u64 addr); /* shim_stays */
long agent_stays_init(void); /* 0 or -ENOMEM */
void agent_stays_end(void);
extern const struct shim_quick agent_quick;
/* SHIM_SYM_WATCHED */
u64 agent_quick_enter(struct shim_pt_regs *regs, struct shim_site *site);
void agent_enter_watched(void);
/* shim_owner_tid */
u32 agent_owner_tid(u32 owner);
/* Puts the state of a fork child right if this is one, or waits for the thread that does; 0 or -EBUSY. One that
 * is stopped, and may have been interrupted by this, is not waited for. */
long agent_check_fork(u32 beside_stopped);
/* A fork child will find the table of threads wiped; -ENOMEM. */
long agent_wipe_forks(u64 at, u64 size);
/* A thread that is no more: inside its run, as by a handler's exit(2). */
int agent_died(const struct shim_thread *t);
/* Waits until every run that is in progress now has ended, or its thread has: 0, or -EBUSY after 'patience'
 * ms, 0: at once, beside stopped threads. One that was waited for in vain is not again, until 'anew':
 * a conversation begins, or is over. */
enum { AGENT_QUIET_MS = 1000 };
long agent_quiesce(u32 patience);
void agent_quiesce_anew(u32 beside_stopped);
/* The same, whoever was waited for, but for the caller's own; or they have been given the time. */
void agent_settle(void);
/* All CPUs that run this process order their accesses now; 0, or -EBUSY: they cannot be made to.
 * Threads that the keeper has stopped have done it already. */
long agent_barrier(void);
/* The guard: sp is an address in the hit's own frame. 0, or -EBUSY: to be counted as missed. */
struct agent_guard {
	u64 prev_sp;
	u64 prev_outer;
};
long agent_guard_enter(struct shim_thread *t, u64 sp, struct agent_guard *g);
u32 agent_vcpu_slowly(struct shim_thread *t, struct shim_ctl *ctl, u32 owner, u32 session);
/* Is a run (or change) whose stack pointer was 'stored' over, as seen from a hit at sp? */
int agent_abandoned(u64 stored, u64 sp);
void agent_guard_leave(struct shim_thread *t, const struct agent_guard *g);

struct agent_both;

/* shim_site_link.lean. PLAIN: at entry or return, in every thread on every CPU. LEAN: and of registers
 * it needs those that are in a lean hit. BARE: PLAIN, its image calls nothing and looks at no register.
 * ENTRY: at the entry. RET: at the return, and PLAIN. RUN: at the entry, PLAIN, walks no stacks, and
 * rdfsbase is there: full.S. RUN_ENDS: and ends by itself. RUN_LEAN: and
 * looks at no register. RUN_READS: RUN, and SHIM_PROG_READS without a virtual CPU.
 * RUN_KEEPS: RUN_ENDS, and its context stays as it is, so that the registers that a call keeps are as they were.
 * RUN_QUICK: both of these. RUN_MAPS: RUN, and SHIM_PROG_MAPS. CALL_BARE: at a system call's tracepoint, sys.S: PLAIN, at the entry, its image
 * calls nothing and writes nothing into its context. */
enum {
	AGENT_PLAIN = 1,
	AGENT_LEAN = 2,
	AGENT_BARE = 4,
	AGENT_ENTRY = 8,
	AGENT_RET = 16,
	AGENT_RUN = 32,
	AGENT_RUN_LEAN = 64,
	AGENT_RUN_ENDS = 128,
	AGENT_RUN_READS = 256,
	AGENT_RUN_KEEPS = 512,
	AGENT_RUN_QUICK = 1024,
	AGENT_RUN_MAPS = 2048,
	AGENT_CALL_BARE = 4096,
};
/* Of what a link's run comes to: the function is not to run, regs->ax is what it returns. */
#define AGENT_SKIP (1u << 31)

/* hit.c, lean.S, full.S */
u64 agent_enter(struct shim_pt_regs *regs, struct shim_site *site);
void agent_enter_lean(void);
void agent_enter_dl_change(void);
void agent_enter_thread(void);
/* Of the registers, only those that a call may change are in regs. */
u64 agent_hit_lean(struct shim_pt_regs *regs, struct shim_site *site, u64 ip, u64 body);
u64 agent_hit(struct shim_pt_regs *regs, struct shim_site *site, u64 body);
/* enter.c. What the bytes at a site are without a probe, as far as four; 0: no code of its own. */
u64 agent_original_code(const struct shim_site *site);
/* One link that agent_wanted() let through, of whatever kind; 1: it wants the return. */
u32 agent_run_link(struct shim_thread *t, void *ctx, struct shim_pt_regs *regs, struct shim_site *site,
		   const struct shim_site_link *link, struct shim_link_state *state, u32 kind,
		   struct agent_both *both);
/* Runs the live links of 'kind' and of both ends; returns how many want the return. both: of this
 * invocation, empty at the entry; NULL: none. */
u32 agent_run_links(struct shim_thread *t, struct shim_pt_regs *regs, struct shim_site *site, u32 kind,
		    struct agent_both *both);
/* Of an event, whose links run at what is no function's entry: the same, with a context of its own. */
void agent_run_links_on(struct shim_thread *t, void *ctx, struct shim_pt_regs *regs,
			struct shim_site *site);
/* Runs the live links of an event (SHIM_EVENT_*), whose context is ctx; regs: of the application
 * there, or NULL. Nothing is attached: two loads. */
void agent_run_event(u32 event, void *ctx, struct shim_pt_regs *regs);
/* The same of the calling thread's block and the event's site (agent_event_site). */
void agent_run_event_of(struct shim_thread *t, struct shim_site *site, void *ctx,
			struct shim_pt_regs *regs);
void agent_run_event_in_c(struct shim_thread *t, struct shim_site *site, void *ctx,
			  struct shim_pt_regs *regs);
/* The same for a kernel's function, at its entry or return; ctx: registers as the kernel has them. At
 * the entry, a program that sets ctx->ip ends that: the index + 1 of its link, else 0. last: the link
 * with which the return's programs end, as that told. */
u32 agent_run_func(u32 event, struct shim_pt_regs *ctx, struct shim_pt_regs *regs, u32 kind, u32 last);
/* Is something attached to the event? What only its context is made for may be left out if not. */
static inline int agent_event_wanted(u32 event)
{
	u32 index = __atomic_load_n(&shim_agent_root.event_site[event % SHIM_MAX_EVENTS],
				    __ATOMIC_ACQUIRE);

	return index && agent_sites()[(index - 1) % SHIM_MAX_SITES].first;
}
/* Adds one to the missed count of every live link of that kind, or of both (kind == 2). */
void agent_missed(struct shim_site *site, u32 kind);

void agent_missed_link(const struct shim_site_link *link);
/* The link's program, if it is live and meant; func: what bpf_get_func_ip tells. */
void agent_run_one(struct shim_thread *t, struct shim_pt_regs *regs, const struct shim_site_link *link,
		   u64 func);

/* leave.c: a link of kind MARK or LEAVE. */
void agent_leave_link(struct shim_thread *t, struct shim_pt_regs *regs, struct shim_site *site,
		      const struct shim_site_link *link);
/* The same for a MARK, whose function is not to run and returns regs->ax. */
void agent_leave_skipped(struct shim_thread *t, struct shim_pt_regs *regs,
			 const struct shim_site_link *link);

/* lean.S: where a trampoline goes that has left the function out, the return address below the stack
 * pointer. */
void agent_skip(void);

/* image.S */
u64 agent_call_image(u64 image, void *ctx, struct shim_run *run);
void agent_unreachable(void);
void agent_contained(void);

/* contained.c: see SHIM_FUNC_HOST_CLIP; see SHIM_OWNED_WINDOW; an isolated program's end. */
u64 agent_host_clip(u64 addr, u64 bytes);
int agent_in_window(u64 addr, u64 len, u32 session);
void agent_contained_at(struct shim_ctl *ctl, u64 prog_id, u64 where, u64 text, struct shim_run *run);

/* ret.c, slots.S */
long agent_ret_init(void);
/* The slot that the function returns into, or -EBUSY: counted as missed. body: what the slot calls, if
 * that is jumped to (agent_ret_call). */
long agent_ret_push(struct shim_thread *t, u64 sp, struct shim_site *site, u64 body);
u64 agent_ret_call(u32 slot);
void agent_ret_withdraw(void);
void agent_ret_end(void);
void agent_ret_forked(u64 fs_base, u32 pid, u32 tid);
u64 agent_return(struct shim_pt_regs *regs, u64 into);

/* names.c. A thread's own number; sessions' number of this process, and of whoever is 'own' to it (t:
 * who asks; 0: nobody knows); the own number of an entry of /proc/self/task, 0: it is gone. All are the
 * same where sessions see what the process sees. */
u32 agent_own_tid(const struct shim_thread *t);
u32 agent_own_tgid(const struct shim_thread *t);
u32 agent_seen_pid(void);
u32 agent_seen(struct shim_thread *t, u32 own);
u32 agent_task_own(u32 entry);
/* The numbers of a block, which is the calling thread's: 0, or -errno: hits are missed. */
long agent_names_fill(struct shim_thread *t, u32 own);
/* Is the block filled with what holds now? */
int agent_names_hold(const struct shim_thread *t);
/* A fork child, whose number is 'own' to itself; 0 or -EBUSY. */
long agent_names_forked(u32 own);
/* A session comes: -EXDEV, another one has other numbers. */
long agent_names_session(const struct shim_agent_session *msg);
/* Within a guard of t's, or (made) one that is made for it: some live session's control page. */
struct shim_ctl *agent_names_begin(struct shim_thread *t, u32 *made);
void agent_names_end(struct shim_thread *t, u32 made);

/* session.c */
long agent_session_add(const struct shim_agent_session *msg, long ctl_fd, long perf_fd);
long agent_session_end(u32 index, u32 patience);
u32 agent_session_owner(struct shim_session *session);

/* ownstack.S, ownstack.c: hits that do not run on the application's stack. */
void agent_enter_own(void);
long agent_own_init(void);
void agent_own_forked(void);
void agent_own_end(void);
extern u64 agent_own_stacks, agent_own_free;
/* The application's stack pointer, as seen from a frame that may lie on a stack of ours: guards know
 * runs by that. */
u64 agent_app_sp(u64 frame);

/* own.c: memory of ours in this process; -ENOSPC, 0: none. */
long agent_own(u64 addr, u64 len, u32 session, u32 shared);
void agent_disown(u64 addr);
u64 agent_map_anon(u64 size);
/* All other threads stand still: what dead backends left; everything, before the image goes. */
long agent_sweep(void);
long agent_eject(void);
long agent_empty(void);

/* objects.c: entries of the session's table; -ENOMEM. What is dropped no run knows any more. */
long agent_object_set(struct shim_session *session, u64 key, u64 addr);
void agent_object_drop(struct shim_session *session, u64 key);
void agent_objects_end(u64 at);

/* grace.c: ends the grace period if it is over, begins another where there is none. stopped: all other
 * threads are. */
void agent_grace(struct shim_agent_grace *out, u32 stopped);

/* serve.c: the conversation on a connected socket. */
long agent_serve(long sock, u32 reason);

/* patch.c: window of a site, and of its host on the way back; mem: descriptor of /proc/self/mem. */
long agent_patch(u32 index, u32 on, u32 reason, long mem);
/* Pages made anew, with these bytes and this protection, in the place of private ones. */
long agent_replace(u64 addr, const void *bytes, u64 len, u32 prot);
/* Writes what need not be writable, which stays so; mem: /proc/self/mem. */
long agent_poke(long mem, u64 addr, const void *bytes, u64 len);

/* procfs.c */
u64 agent_start_time(void); /* of this process, clock ticks; 0: could not be read */
u32 agent_nthreads(void); /* of this process; 0: could not be counted */
/* ptrace_errno, yama. */
void agent_ptrace_probe(void);

/* visit.c */
void agent_visit(u32 reason);
u64 agent_dl_change(struct shim_pt_regs *regs, struct shim_site *site);

/* mailbox.c: registers, again in a fork child. */
void agent_mailbox_open(void);
void agent_mailbox_close(void); /* nobody finds it any more */

/* service.S, service.c */
void agent_service_entry(void);
extern struct shim_service_frame agent_service_frame;

/* All the copying there is: no libc here, and the compiler must not make calls of it. */
static inline void agent_copy(void *dst, const void *src, u64 len)
{
	__asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(len) : : "memory");
}

static inline void agent_zero(void *dst, u64 len)
{
	__asm__ volatile("rep stosb" : "+D"(dst), "+c"(len) : "a"(0) : "memory");
}

static inline int agent_differs(const void *a, const void *b, u64 len)
{
	const u8 *x = a, *y = b;

	for (u64 i = 0; i < len; i++)
		if (x[i] != y[i])
			return 1;
	return 0;
}

/* Appends s and a NUL at *pos of a buffer of 'room' bytes; *pos becomes room if it did not fit. */
static inline void agent_append(char *buf, u32 room, u32 *pos, const char *s)
{
	for (; *pos < room; s++) {
		buf[*pos] = *s;
		if (!*s)
			return;
		++*pos;
	}
}

static inline void agent_append_number(char *buf, u32 room, u32 *pos, u64 number)
{
	char digits[24];
	u32 at = sizeof(digits);

	digits[--at] = 0;
	do {
		digits[--at] = (char)('0' + number % 10);
		number /= 10;
	} while (number);
	agent_append(buf, room, pos, digits + at);
}

#pragma GCC visibility pop

#define agent_load(p) __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define agent_store(p, v) __atomic_store_n(p, v, __ATOMIC_RELEASE)

#endif
