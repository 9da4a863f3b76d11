/*
 * The control page of a session: one memfd ("bpf-ctl"), created by the backend,
 * mapped read-write at any address by the loader and by every target.
 *
 * It answers four questions without a message: is the backend alive, who owns a
 * lock or a virtual CPU, is a link enabled, and has a ring got data.
 *
 * Nothing in it is trusted for an address or a size.
 */
#ifndef SHIM_CTL_H
#define SHIM_CTL_H

#include "shim_types.h"
#include "shim_task.h"

enum {
	SHIM_CTL_MAGIC = 0x4c544353, /* "SCTL" */
	SHIM_CTL_VERSION = 5,
	SHIM_MAX_VCPUS = 512,
	SHIM_MAX_SLOTS = 1024,
	SHIM_MAX_LINKS = 16384,
	SHIM_MAX_STATS = 4096,
	SHIM_MAX_EXECS = 1024,
	/* FUTEX_OWNER_DIED: set by the kernel in backend_lock when the backend dies,
	 * and by the backend itself when it ends in good order. */
	SHIM_BACKEND_DEAD = 0x40000000,
};

/*
 * Owner word of a lock or virtual CPU; 0 is free. slot is never 0. A word whose
 * generation differs from its slot's, or whose slot is SHIM_SLOT_DEAD, belongs to
 * the dead: anybody may take it over by compare-and-swap and must then roll the
 * intent forward or back.
 */
enum {
	SHIM_OWNER_SLOT_BITS = 10,
	SHIM_OWNER_GEN_BITS = 10,
	SHIM_OWNER_THREAD_BITS = 12,
	SHIM_OWNER_SLOT_SHIFT = 22,
	SHIM_OWNER_GEN_SHIFT = 12,
};

/* Process slot. Claimed by the process itself: FREE -> CLAIMED by compare-and-swap
 * on state, then pid and start_time, then LIVE; then it bumps backend_seq and wakes it.
 * Only the backend, by pidfd, sets DEAD, and FREE with gen + 1 when nothing refers to it. */
enum { SHIM_SLOT_FREE = 0, SHIM_SLOT_CLAIMED = 1, SHIM_SLOT_LIVE = 2, SHIM_SLOT_DEAD = 3 };

struct shim_slot {
	u32 state;
	u32 gen; /* SHIM_OWNER_GEN_BITS wide, never 0 */
	u32 pid;
	u32 told; /* the process has told of its own end: programs have run for it */
	u64 start_time; /* field 22 of /proc/PID/stat, clock ticks; 0: not filled in */
	u32 seen; /* the backend will notice how it ends; futex */
	/* of slot 0, which is nobody's: the backend has not looked for long. Of others: the last signal
	 * that some process has told of sending to this one */
	u32 note;
};
SHIM_ASSERT(sizeof(struct shim_slot) == 32);

/*
 * A virtual CPU, owned for the whole of one program run; or, of those from nr_vcpus on, what a thread
 * keeps of one from run to run, so as to claim it without a locked instruction (csrc/runtime/vcpu.c).
 *
 * Of a virtual CPU owner and kept change by compare-and-swap, both at once. kept 0: owner is in a run.
 * Else owner keeps it: the entry's number, a number that is another one at each taking, and
 * SHIM_KEPT_WANTED: somebody else would like it, so its keeper has to look. He is in a run while
 * the entry's owner is not 0.
 */
enum { SHIM_KEPT_ENTRY = 0x1ff, SHIM_KEPT_NEXT = 0x200, SHIM_KEPT_WANTED = 0x80000000 };

struct shim_vcpu {
	union {
		struct {
			u32 owner;
			u32 kept;
		};
		u64 word;
	};
	/* of an entry: whose it is, for good, which others read; the rest is his */
	u32 keeper;
	u32 vcpu; /* that he keeps, if its word is `keeps` */
	u64 keeps;
	u32 cpu; /* whose it is, as shim_this_cpu() has it */
	u32 taken; /* how often, times SHIM_KEPT_NEXT */
	u8 pad[32];
};
SHIM_ASSERT(sizeof(struct shim_vcpu) == 64);
SHIM_ASSERT(SHIM_KEPT_ENTRY == SHIM_MAX_VCPUS - 1);

/* What every run asks first. enabled == 0 silences the link in all processes at once. */
struct shim_link_state {
	u32 enabled;
	u32 tgid; /* 0: every process; else only this one */
	u64 missed; /* runs left out: re-entered, no virtual CPU, no return slot */
};
SHIM_ASSERT(sizeof(struct shim_link_state) == 16);

/* Runs of one program while they are counted. Entry prog_id % SHIM_MAX_STATS is that of the program
 * whose id it holds; the backend fills that in, runs add. */
struct shim_stat {
	u32 prog_id; /* 0: free */
	u32 pad;
	u64 run_cnt;
	u64 run_time_ns;
	u64 ended; /* runs that had used up their instructions, counted always */
};
SHIM_ASSERT(sizeof(struct shim_stat) == 32);

/* An execve under way whose exit somebody wants: the new image tells of it. */
struct shim_exec {
	u32 pid; /* 0: free; written last */
	u32 nr; /* of the system call */
	u64 start_time; /* of the process, clock ticks */
};
SHIM_ASSERT(sizeof(struct shim_exec) == 16);

/*
 * What a process that lives in a namespace of process numbers of its own asks the backend, which
 * sees it from outside: csrc/runtime/ask.c asks, csrc/native/answer.c answers.
 *
 * state: what follows, and above SHIM_ASK_BITS a number that changes each time the entry is given
 * back: FREE -> TAKEN (by who asks) -> ASKED -> ANSWERING (by the backend) -> ANSWERED -> FREE (by who
 * asked, or by the backend for one that is no more).
 */
enum {
	SHIM_ASK_FREE = 0,
	SHIM_ASK_TAKEN = 1,
	SHIM_ASK_ASKED = 2,
	SHIM_ASK_ANSWERING = 3,
	SHIM_ASK_ANSWERED = 4,
	SHIM_ASK_BITS = 3,
	SHIM_MAX_ASKS = 64,
};
/* THREAD: of process 'pid' the thread that is 'number' to itself. CHILD: the process that is 'number'
 * to itself, which 'pid' has made; its start too. OTHER: whoever is 'number' to 'pid'. FILE:
 * /proc/'pid'/'text', as much of it as there is room for; of a namespace its inode. */
enum { SHIM_ASK_THREAD = 1, SHIM_ASK_CHILD = 2, SHIM_ASK_OTHER = 3, SHIM_ASK_FILE = 4 };

struct shim_ask {
	u32 state; /* futex */
	u32 what;
	u32 pid; /* as the session numbers it */
	u32 number; /* as who asks sees it */
	s32 answer; /* a number of the session's, or bytes of 'text'; negative errno */
	u32 of; /* the 'number' that was answered */
	u64 start_time; /* CHILD: of the process, clock ticks */
	u64 ns; /* CHILD, OTHER: the namespace where that is its number, its inode; 0: who asks does not know */
	char text[2008];
};
SHIM_ASSERT(sizeof(struct shim_ask) == 2048);

/* An isolated program that has left its window: its links were silenced where that happened.
 * state: FREE -> TAKEN (by who fills it in) -> TOLD -> FREE (by the backend, once it has read it). */
enum {
	SHIM_CONTAINED_FREE = 0,
	SHIM_CONTAINED_TAKEN = 1,
	SHIM_CONTAINED_TOLD = 2,
	SHIM_MAX_CONTAINED = 16
};

struct shim_contained {
	u32 state;
	u32 prog_id;
	u32 pid; /* as the session numbers it */
	u32 offset; /* of the code behind the access, in the program's image */
};
SHIM_ASSERT(sizeof(struct shim_contained) == 16);

struct shim_ctl {
	u32 magic;
	u32 version;
	u64 size; /* bytes of the whole memfd */
	/* pthread_mutex_t, robust and process-shared, held by the backend's main thread
	 * for its whole life; word 0 is the futex word the kernel marks. */
	u32 backend_lock[10];
	u32 stats; /* some descriptor of ENABLE_STATS is open: runs are counted */
	/* questions: bumped with each, futex; nobody has answered for long; the backend is to stop */
	u32 ask_seq;
	u32 ask_silent;
	u32 ask_end;
	u32 pad0[2];
	u32 backend_pid;
	u32 session_id;
	u32 nr_vcpus; /* possible CPUs as loaders are shown them */
	u32 nr_real_cpus; /* possible CPUs of the machine, SHIM_MAX_VCPUS at most */
	/* rings: producers do wake_seq++, then FUTEX_WAKE if wake_waiters */
	u32 wake_seq;
	u32 wake_waiters;
	/* to the backend: a new slot, a dead owner met */
	u32 backend_seq;
	u32 backend_waiters;
	u64 perf_size; /* bytes of the perf area memfd ("bpf-perf"), sparse */
	/* memory of maps, bytes: maps that grow charge what they grow by (shim_charge) */
	u64 map_limit;
	u64 map_used;
	/* of the session's BTF, by SHIM_FIELD_*; filled in before a program that asks is loaded */
	struct shim_task_place task[64];
	/* where bpf_trace_printk() writes: as a struct shim_perf_slot, 0: nowhere yet; its own futex */
	u64 trace_ring;
	u32 trace_seq;
	u32 trace_waiters;
	struct shim_contained contained[16];
	u8 pad[4096 - 152 - 256 - 256];
	struct shim_vcpu vcpu[512]; /* nr_vcpus of them */
	struct shim_slot slot[1024];
	struct shim_link_state link[16384];
	struct shim_stat stat[4096];
	struct shim_exec exec[1024];
	struct shim_ask ask[64];
};
SHIM_ASSERT(__builtin_offsetof(struct shim_ctl, stats) == 56);
SHIM_ASSERT(__builtin_offsetof(struct shim_ctl, vcpu) == 4096);

#endif
