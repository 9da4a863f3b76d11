/*
 * Who runs here: blocks keyed by the fs base, without TLS.
 *
 * - A fork child finds the table zeroed (WIPEONFORK) and its first hit, or first conversation,
 *   puts the rest right (agent_check_fork). Where the kernel does not zero it (gVisor), that hit does, by
 *   a page that a child has not; one that leaves libc's number of the thread as it was is taken for its
 *   parent there.
 * - An fs base may be used again by another thread (libc keeps stacks). The block remembers where
 *   libc keeps the thread's own number (PR_GET_TID_ADDRESS, or libc's word) and believes itself only while
 *   that word holds it; where there is no such word inside the thread's own control block, each hit
 *   asks gettid.
 * - A vfork child shares all this, the table included, with its sleeping parent; block 0, which
 *   belongs to no thread, tells it from a fork child: wiped or not. It cannot corrupt its parent:
 *   that is not inside a run, and what the child leaves behind when it execs or dies is seen as
 *   abandoned by the parent's next hit above it. It only would be taken for its parent; so
 *   while agent_vforks is not zero each hit asks gettid, and a child uses a second block.
 */
#include "hit.h"
#include "clock.h"
#include "stays.h"

enum {
	PR_GET_TID_ADDRESS = 40,
	SIG_SETMASK_ = 2,
	TCB_SIZE = 4096,
	NO_TLS_YET = 2 /* a program begins */
};

static u32 tid_of(const struct shim_thread *t)
{
	return __atomic_load_n((u32 *)t->tid_word, __ATOMIC_RELAXED);
}

/* Fills a block that is this thread's: new, or of a dead thread of the same fs base. */
static long fill(struct shim_thread *t, u64 fs_base, u32 tid)
{
	u64 word = 0;
	u32 there = 0;

	t->guard_sp = t->outer_sp = 0;
	t->locks_held = 0;
	t->entry = t->entry_of = 0;
	t->ret_block = 0;
	t->tid_word = 0;
	t->clock.tsc = 0;
	shim_clock_look();
	if (agent_names_fill(t, tid))
		return -E_BUSY;
	if (shim_sys2(NR_PRCTL, PR_GET_TID_ADDRESS, &word))
		word = agent_private.tid_at ? fs_base + agent_private.tid_at : 0;
	if (word > fs_base && word < fs_base + TCB_SIZE &&
	    !shim_copy_from(&there, word, sizeof(there)) && there == tid)
		t->tid_word = word;
	return 0;
}

/* Takes over the block of a thread that is no more; only in a full table, where probing from any
 * key passes every block. */
static struct shim_thread *take_over(u64 key, u32 *fresh)
{
	u32 pid, at = agent_thread_hash(key);

	if (agent_muted())
		return NULL;
	pid = (u32)shim_sys0(NR_GETPID);
	for (u32 i = 0; i < 64; i++, at = (at + 1) % AGENT_THREADS) {
		struct shim_thread *t = &agent_threads()[at];
		u64 old = t->fs_base;

		if (!at || shim_sys3(NR_TGKILL, pid, agent_own_tid(t), 0) != -E_SRCH)
			continue;
		if (__atomic_compare_exchange_n(&t->fs_base, &old, key, 0, __ATOMIC_RELAXED,
						__ATOMIC_RELAXED)) {
			*fresh = 1;
			return t;
		}
	}
	return NULL;
}

/* The block of a key, or a free one that now is. */
static struct shim_thread *find(u64 key, u32 *fresh)
{
	u32 at = agent_thread_hash(key);

	for (u32 i = 0; i < AGENT_THREADS; i++, at = (at + 1) % AGENT_THREADS) {
		struct shim_thread *t = &agent_threads()[at];
		u64 there = __atomic_load_n(&t->fs_base, __ATOMIC_RELAXED);

		if (there == key)
			return t;
		if (there || !at) /* index 0 is no thread part of an owner word */
			continue;
		if (__atomic_compare_exchange_n(&t->fs_base, &there, key, 0, __ATOMIC_RELAXED,
						__ATOMIC_RELAXED)) {
			t->index = at;
			*fresh = 1;
			return t;
		}
		if (there == key)
			return t;
	}
	return take_over(key, fresh);
}

/* Is the block another living thread's? A new thread has its maker's fs base until it sets its own, as
 * those of Go's runtime. */
static int borrowed(const struct shim_thread *t, u32 tid)
{
	u32 other = agent_own_tid(t);

	return other && other != tid && shim_sys3(NR_TGKILL, shim_sys0(NR_GETPID), other, 0) != -E_SRCH;
}

static int is_of(const struct shim_thread *t, u32 tid)
{
	return agent_own_tid(t) == tid && agent_names_hold(t);
}

/* The kernel is asked: a thread not seen before, or whose block may be stale. */
static struct shim_thread *slow(struct shim_thread *t, u64 fs_base, u32 fresh)
{
	u32 tid;

	if (agent_muted())
		return NULL;
	tid = (u32)shim_sys0(NR_GETTID);
	if (!fresh && is_of(t, tid))
		return t;
	if (agent_check_fork(0))
		return NULL;
	if (agent_threads()[0].tid != (u32)shim_sys0(NR_GETPID)) { /* vfork child */
		t = find(fs_base | 1, &fresh);
		if (t && is_of(t, tid))
			return t;
	}
	if (t && !fresh && borrowed(t, tid)) {
		t = find((u64)tid << 6 | 4, &fresh);
		if (t && !fresh && is_of(t, tid))
			return t;
	}
	return t && !fill(t, fs_base, tid) ? t : NULL;
}

struct shim_thread *agent_thread(void)
{
	u64 fs_base = agent_fs_base();
	u32 fresh = 0;
	struct shim_thread *t;

	if (!fs_base && agent_muted())
		return NULL;
	if (!fs_base) /* a program without thread-local storage */
		fs_base = (u64)shim_sys0(NR_GETTID) << 6 | 4;
	t = find(fs_base, &fresh);

	if (!t)
		return NULL;
	if (!fresh && t->tid_word && tid_of(t) == t->tid &&
	    __builtin_expect(!__atomic_load_n(&agent_vforks, __ATOMIC_RELAXED), 1))
		return t;
	return slow(t, fs_base, fresh);
}

struct shim_thread *agent_thread_asked(void)
{
	u64 fs_base = agent_fs_base() ?: NO_TLS_YET;
	u32 fresh = 0;
	struct shim_thread *t = find(fs_base, &fresh);

	return t ? slow(t, fs_base, fresh) : NULL;
}

/* Another thread is at it, and no handler interrupts it there: only the machine can hold it up. */
static long put_right(const struct shim_thread *mark)
{
	enum { NAP_NS = 50000, NAPS = 100000 /* 10 s */ };
	u64 nap[2] = { 0, NAP_NS };

	for (u32 i = 0; i < NAPS && !agent_load(&mark->tid) && agent_load(&mark->tgid); i++)
		shim_sys2(NR_NANOSLEEP, nap, 0);
	return agent_load(&mark->tid) ? 0 : -E_BUSY;
}

/* What a fork child has inherited becomes its own. Its mark's tgid is taken. */
static long put_right_here(struct shim_thread *mark, u32 pid)
{
	struct shim_agent *root = &shim_agent_root;

	agent_private.start_time = 0;
	if (agent_names_forked(pid)) {
		agent_store(&mark->tgid, 0u); /* the next hit tries again */
		return -E_BUSY;
	}
	root->lock = 0; /* its holder, if any, is a thread of the parent */
	agent_service_frame.busy = 0;
	agent_private.start_time = agent_start_time();
	agent_own_forked();
	agent_quick_forked();
	agent_alone_forked();
	agent_ret_forked(agent_fs_base(), pid, (u32)shim_sys0(NR_GETTID));
	for (u32 i = 0; i < root->nr_sessions; i++) {
		struct shim_session *session = &root->sessions[i];

		if (session->id)
			session->owner = shim_slot_claim((struct shim_ctl *)session->ctl,
							 shim_names.foreign ? shim_names.pid : pid,
							 agent_private.start_time);
	}
	root->pid = pid;
	mark->fs_base = 1;
	agent_store(&mark->tid, pid);
	agent_clock_forked();
	return 0;
}

/* The page that fork children have not is there: looked at by a call that changes nothing. */
static int is_here(void)
{
	enum { NO_HOW = -1 };
	const u64 *here = (const u64 *)agent_private.here;

	return shim_sys4(NR_SIGPROCMASK, NO_HOW, here, 0, 8) == -E_INVAL && *here == SHIM_AGENT_MAGIC;
}

long agent_wipe_forks(u64 at, u64 size)
{
	enum { DONTFORK = 10, WIPEONFORK = 18 };
	u64 here;

	if (!shim_sys3(NR_MADVISE, at, size, WIPEONFORK))
		return 0;
	here = agent_map_anon(AGENT_PAGE);
	if (!here)
		return -E_NOMEM;
	*(u64 *)here = SHIM_AGENT_MAGIC;
	if (shim_sys3(NR_MADVISE, here, AGENT_PAGE, DONTFORK)) {
		agent_disown(here);
		shim_sys2(NR_MUNMAP, here, AGENT_PAGE);
		return -E_NOMEM;
	}
	agent_private.here = here;
	return 0;
}

/* What the kernel did not do. Its mark's tid is taken. */
static long wipe(struct shim_thread *mark, u32 parent, u32 pid)
{
	u64 *at = (u64 *)mark, size = AGENT_THREADS * sizeof(*mark), gone = agent_private.here;

	if (agent_wipe_forks((u64)at, size)) {
		agent_store(&mark->tid, parent); /* the next hit tries again */
		return -E_BUSY;
	}
	agent_disown(gone);
	for (u64 i = sizeof(*mark) / 8; i < size / 8; i++)
		at[i] = 0;
	mark->tgid = pid;
	return 0;
}

/* One thread does it, with its signals blocked, so that the others, and a handler's hit, can wait. */
long agent_check_fork(u32 beside_stopped)
{
	u64 all = ~0ull, before = 0;
	struct shim_thread *mark;
	u32 none = 0, pid, parent;
	long ret;

	if (!agent_load(&agent_private.ready))
		return 0;
	mark = &agent_threads()[0];
	parent = agent_load(&mark->tid);
	if (parent && (!agent_private.here || (u32)shim_sys0(NR_GETPID) == parent || is_here()))
		return 0;
	if (agent_muted())
		return -E_BUSY;
	shim_sys4(NR_SIGPROCMASK, SIG_SETMASK_, &all, &before, 8);
	pid = (u32)shim_sys0(NR_GETPID);
	if (__atomic_compare_exchange_n(parent ? &mark->tid : &mark->tgid, parent ? &parent : &none,
					parent ? 0 : pid, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
		ret = (parent ? wipe(mark, parent, pid) : 0) ?: put_right_here(mark, pid);
		shim_sys4(NR_SIGPROCMASK, SIG_SETMASK_, &before, 0, 8);
		return ret;
	}
	shim_sys4(NR_SIGPROCMASK, SIG_SETMASK_, &before, 0, 8);
	return beside_stopped ? -E_BUSY : put_right(mark);
}

u32 agent_owner_tid(u32 owner)
{
	const struct shim_agent *root = &shim_agent_root;
	u32 index = owner & ((1u << SHIM_OWNER_THREAD_BITS) - 1);

	if (!agent_load(&agent_private.ready) || !owner)
		return 0;
	for (u32 i = 0; i < root->nr_sessions; i++)
		if (root->sessions[i].id && root->sessions[i].owner == owner - index)
			return agent_threads()[index].tid;
	return 0;
}

enum { PRIVATE_EXPEDITED = 1 << 3, REGISTER_PRIVATE_EXPEDITED = 1 << 4 };

long agent_barrier(void)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (agent_fences || shim_sys2(NR_MEMBARRIER, PRIVATE_EXPEDITED, 0) == 0)
		return 0;
	/* the first time in a process */
	shim_sys2(NR_MEMBARRIER, REGISTER_PRIVATE_EXPEDITED, 0);
	if (shim_sys2(NR_MEMBARRIER, PRIVATE_EXPEDITED, 0) == 0)
		return 0;
	/* hits that have begun meanwhile are over when this is asked again */
	agent_store(&agent_fences, 1u);
	return -E_BUSY;
}

int agent_died(const struct shim_thread *t)
{
	u32 tid = agent_own_tid(t);

	if (!tid || (shim_names.foreign && t->fs_base & 1)) /* of a vfork child nobody knows there */
		return 0;
	return shim_sys3(NR_TGKILL, agent_own_tgid(t), tid, 0) == -E_SRCH;
}

/* A run's number, as far as it takes to see that it has ended; 0: none is in progress. */
static u8 run_of(const struct shim_thread *t)
{
	return t->fs_base && agent_load(&t->guard_sp) ? (u8)(agent_load(&t->runs) % 255 + 1) : 0;
}

/* Before 'end', shim_now_ns(): by time, since yields are over at once or take milliseconds each, as many
 * threads as there are that compute. */
static long wait_for(const struct shim_thread *t, u8 run, u64 end)
{
	for (u32 i = 0; run && run_of(t) == run && !agent_died(t); i++) {
		if (!end || shim_now_ns() >= end)
			return -E_BUSY;
		agent_pause(i);
	}
	return 0;
}

static u64 after(u32 patience)
{
	return patience ? shim_now_ns() + patience * 1000000ull : 0;
}

/* Of a conversation: all others are stopped; whose run, and which, has been waited for in vain. */
static u32 stopped;
static u32 in_vain, in_vain_run;

void agent_quiesce_anew(u32 beside_stopped)
{
	stopped = beside_stopped;
	in_vain = 0;
}

long agent_quiesce(u32 patience)
{
	static u8 run[AGENT_THREADS]; /* now: those that begin meanwhile are not waited for */
	u64 end = after(patience);

	if (patience && agent_barrier())
		return -E_BUSY;
	for (u32 i = 1; i < AGENT_THREADS; i++)
		run[i] = run_of(&agent_threads()[i]);
	for (u32 i = 1; i < AGENT_THREADS; i++) {
		if (wait_for(&agent_threads()[i], run[i],
			     i == in_vain && run[i] == in_vain_run ? 0 : end)) {
			in_vain = i;
			in_vain_run = run[i];
			return -E_BUSY;
		}
	}
	return 0;
}

void agent_settle(void)
{
	u64 end = stopped ? 0 : after(AGENT_QUIET_MS);
	u32 self = (u32)shim_sys0(NR_GETTID);

	for (u32 i = 0; agent_barrier() && shim_now_ns() < end; i++)
		agent_pause(i);
	for (u32 i = 1; i < AGENT_THREADS; i++) {
		const struct shim_thread *t = &agent_threads()[i];

		if (agent_own_tid(t) != self)
			wait_for(t, run_of(t), end);
	}
}
