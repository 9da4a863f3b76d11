/*
 * Reads of a command's runs (BPF_PROG_TEST_RUN) without a system call each, by the copies of quick.c and a handler of
 * their own, which stands while the runs go on: from the read that makes it pay to the command's end.
 *
 * It may stand there if nobody could see it or change it: if all threads of the process but the command's are the
 * library's own, which block all signals and run nothing of the application's. So many are there as the kernel counts.
 * What the application has for the two signals, a handler even, is put back behind the runs. Its handlers cannot run
 * meanwhile: all signals are blocked but five, of which the other three must have none, and these two must not be
 * blocked. Where one of that is not so, and where the agent's handler of quick.c is there, reads are as they would be.
 *
 * Whose read it is, the stack pointer says: nobody else is on the command's stack, below its runs.
 *
 * A fault elsewhere puts all back and happens again. A signal that was sent is sent again: at once if it ends the
 * process, else behind the command, which it ends as the kernel's; what is ignored is.
 *
 * A fault costs more than to ask, and to ask costs more than to know. Where nothing is mapped, or nothing to be read,
 * that stays so while nobody else runs here, and nobody has to be asked once more: until the next runs in a row, should
 * somebody who shares this memory without being a thread have changed it. Another process may make a file longer: a
 * page whose fault was SIGBUS is asked for, each time.
 *
 * A run may be left by a jump, out of a handler of the application's for one of the five. What is met later in the
 * thread, hits of its own functions, has another number of run.
 */
#include "hit.h"
#include "proc.h"
#include "stays.h"
#include "trapcalls.h"

enum {
	FIRST = 8, /* reads that cost as much as to begin and to end */
	PAGES = 8,
	ASK = 1, /* of a page that had a fault: it may be there the next time */
	GONE = 2, /* it will not, in these runs */
	SEGV_ACCERR_ = 2, /* behind SEGV_MAPERR: no right to it, or no mapping */
	SIG_IGN_ = 1,
	THREADS_FIELD = 20, /* of /proc/self/stat */
	PR_GET_SECCOMP_ = 21,
	MADV_POPULATE_READ_ = 22,
	INFO = 128,
};

static struct {
	u64 low, span; /* the stack pointers that are runs'; span 0: no handler is there */
	u32 shut; /* a thread is in a conversation, its signals blocked */
	u32 reads; /* before the handler is there */
	u64 owner; /* fs base of the thread whose command it is; 0: none */
	struct agent_alone what;
	u32 run; /* shim_thread.runs of the command's last one */
	u32 fault; /* of a copy: what its page is now, and where it was */
	u64 fault_at;
	u64 bad[PAGES]; /* addresses of pages that had a fault, by their number, and what they are; 0: none */
	u32 filtered;
	u32 sent; /* which of the two signals were, and are to be again */
	u8 info[2][INFO];
	struct trap_action theirs[2];
} alone;

static const u32 both[] = { SIGBUS_, SIGSEGV_ };

static int is_run(u64 sp)
{
	return likely(sp - alone.low < alone.span) && likely(!alone.shut);
}

static int is_owner(void)
{
	return alone.owner && alone.owner == agent_fs_base();
}

/* As a process is told: 0, it could not be read. */
static u32 threads(void)
{
	struct proc_file f;
	char line[448];
	const char *at;
	s64 n;

	proc_open_self(&f, "/stat");
	n = proc_line(&f, line, sizeof(line));
	proc_close(&f);
	for (at = line + (n < 0 ? 0 : n); at > line && *at != ')'; at--)
		;
	if (at == line)
		return 0;
	for (u32 field = 2; *at && field < THREADS_FIELD; at++)
		field += *at == ' ';
	return (u32)proc_number(&at, 10);
}

/* Those of ours count themselves, while they are there for certain. */
static int nobody_else(void)
{
	u32 begun = agent_load(alone.what.begun), all = threads();

	return all && all == 1 + begun - agent_load(alone.what.ended);
}

/* No handler may run between ours: these signals are not blocked. */
static int undisturbed(void)
{
	static const u32 others[] = { 4, SIGTRAP_, 8 }; /* SIGILL, SIGFPE */
	struct trap_action there;

	for (u32 i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		if (shim_sys4(NR_SIGACTION, others[i], 0, &there, 8) || there.handler > SIG_IGN_)
			return 0;
	return 1;
}

static void on_fault(int signo, struct agent_siginfo *info, struct agent_context *uc);

static int install(void)
{
	struct trap_action mine = { (u64)on_fault, AGENT_FAULT_FLAGS, (u64)agent_tick_restorer, 0 };

	if (shim_sys4(NR_SIGACTION, both[0], &mine, &alone.theirs[0], 8))
		return 0;
	if (!shim_sys4(NR_SIGACTION, both[1], &mine, &alone.theirs[1], 8))
		return 1;
	shim_sys4(NR_SIGACTION, both[0], &alone.theirs[0], 0, 8);
	return 0;
}

/* The handlers go, and no other comes in this command. */
static void over(void)
{
	alone.reads = FIRST + 1;
	if (!alone.span)
		return;
	agent_store(&alone.span, 0ull);
	for (u32 i = 0; i < 2; i++)
		shim_sys4(NR_SIGACTION, both[i], &alone.theirs[i], 0, 8);
	agent_quick_release();
}

/* What was sent comes to whom it was sent to. A handler may leave by a jump. */
static void tell(void)
{
	u32 sent = alone.sent;

	alone.sent = 0;
	for (u32 i = 0; i < 2; i++)
		if (sent >> i & 1)
			shim_sys4(NR_RT_TGSIGQUEUEINFO, shim_sys0(NR_GETPID), shim_sys0(NR_GETTID),
				  both[i], alone.info[i]);
}

/* Called by the kernel. */
static void on_fault(int signo, struct agent_siginfo *info, struct agent_context *uc)
{
	u64 size = (u64)(agent_guarded_end - agent_guarded);
	u32 i = signo == SIGSEGV_;

	if (!agent_sent(signo, info)) {
		if (uc->ip - (u64)agent_guarded < size) {
			alone.fault = i && info->code <= SEGV_ACCERR_ ? GONE : ASK;
			alone.fault_at = info->addr;
			uc->ip = (u64)agent_guarded_fault;
		} else {
			over();
		}
		return;
	}
	if (alone.theirs[i].handler == SIG_IGN_)
		return;
	if (!(alone.sent >> i & 1))
		agent_copy(alone.info[i], info, INFO);
	alone.sent |= 1u << i;
	if (!alone.theirs[i].handler) {
		over();
		tell();
	}
}

static int enter(void)
{
	const struct shim_thread *t = agent_usual();
	struct agent_stack *s;

	if (!t || !t->guard_sp || t->outer_sp || t->runs != alone.run ||
	    agent_load(&shim_agent_root.mailbox) ||
	    agent_own_tgid(t) != agent_load(&agent_threads()[0].tid))
		return 0;
	s = agent_room(t, AGENT_FAULT_ROOM);
	if (!s || !agent_quick_hold())
		return 0;
	if (!nobody_else() || !undisturbed() || !install()) {
		agent_quick_release();
		return 0;
	}
	alone.filtered = shim_sys2(NR_PRCTL, PR_GET_SECCOMP_, 0) != 0;
	alone.low = s->lo + AGENT_FAULT_ROOM;
	agent_store(&alone.span, t->guard_sp - alone.low);
	return 1;
}

static int may(void)
{
	if (is_run((u64)__builtin_frame_address(0)))
		return 1;
	if (agent_quick.may())
		return 1;
	if (alone.reads > FIRST || alone.shut || !is_owner())
		return 0;
	return ++alone.reads > FIRST && enter();
}

static u64 *bad_page(u64 addr)
{
	return &alone.bad[addr / AGENT_PAGE % PAGES];
}

/* Is it there again, by the kernel? A filter may mind the quicker question. */
static int still(u64 addr)
{
	u64 page = addr & -(u64)AGENT_PAGE;
	long ret = alone.filtered ? 0 : shim_sys3(NR_MADVISE, page, AGENT_PAGE, MADV_POPULATE_READ_);
	u8 byte;

	if (ret == -E_NOMEM || ret == -E_FAULT || shim_copy_asking(&byte, addr, 1))
		return 1;
	*bad_page(addr) = 0;
	return 0;
}

/* Nothing can be read there. */
static int nothing(u64 addr)
{
	u64 what = *bad_page(addr) - (addr & -(u64)AGENT_PAGE);

	if (likely(what != GONE && what != ASK))
		return 0;
	return what == GONE || still(addr);
}

/* A fault where a copy reads, not where it writes. */
static long remember(long ret, u64 src, u64 len)
{
	if (unlikely(ret < 0) && alone.fault) {
		if (alone.fault_at - src < len)
			*bad_page(alone.fault_at) = (alone.fault_at & -(u64)AGENT_PAGE) + alone.fault;
		alone.fault = 0;
	}
	return ret;
}

static long copy(void *dst, u64 src, u64 len)
{
	if (!is_run((u64)__builtin_frame_address(0)))
		return agent_guarded_copy(dst, src, len);
	if (len && (nothing(src) || nothing(src + len - 1)))
		return -E_FAULT;
	return remember(agent_guarded_copy(dst, src, len), src, len);
}

/* What lies behind its first page may be behind its end. */
static long string(void *dst, u64 src, u64 size)
{
	if (!is_run((u64)__builtin_frame_address(0)))
		return agent_guarded_string(dst, src, size);
	if (size && nothing(src))
		return -E_FAULT;
	return remember(agent_guarded_string(dst, src, size), src, size);
}

static const struct shim_quick reads = { 0, may, copy, string };

/* What may fault need not be known. */
static u64 stays(u64 addr)
{
	return is_run((u64)__builtin_frame_address(0)) ? 0 : agent_stays(addr);
}

void agent_alone_begin(const struct agent_alone *what)
{
	u64 none = 0, self = agent_fs_base();

	agent_alone_end(); /* of a command that was left by a jump */
	if (!agent_load(&agent_private.ready) || !self || what->blocked & AGENT_FAULTS ||
	    !__atomic_compare_exchange_n(&alone.owner, &none, self, 0, __ATOMIC_ACQUIRE,
					 __ATOMIC_RELAXED))
		return;
	agent_copy(&alone.what, what, sizeof(*what));
	alone.reads = alone.sent = alone.fault = alone.run = 0;
	agent_store(&shim_stays, stays);
	agent_store(&shim_quick, &reads);
}

void agent_alone_run(const struct shim_thread *t)
{
	if (!is_owner())
		return;
	alone.run = t->runs;
	agent_zero(alone.bad, sizeof(alone.bad));
}

u32 agent_alone_sent(void)
{
	return alone.sent && is_owner();
}

static void give_up(void)
{
	agent_store(&shim_quick, &agent_quick);
	agent_store(&shim_stays, agent_stays);
	agent_store(&alone.owner, 0ull);
}

void agent_alone_end(void)
{
	if (!is_owner())
		return;
	over();
	give_up();
}

void agent_alone_tell(void)
{
	if (alone.sent && !alone.owner)
		tell();
}

void agent_alone_shut(int on)
{
	agent_store(&alone.shut, (u32)on);
}

void agent_alone_forked(void)
{
	agent_store(&alone.shut, 0u);
	if (alone.owner && !is_owner())
		give_up();
}
