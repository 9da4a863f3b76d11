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
 * process, else behind the runs, which it ends as the kernel's; what is ignored is.
 *
 * A fault costs more than to ask, so pages that had one are asked for, each time, where they are read next.
 */
#include "hit.h"
#include "proc.h"
#include "stays.h"
#include "trapcalls.h"

enum {
	FIRST = 8, /* reads that cost as much as to begin and to end */
	PAGES = 8,
	LEAST = 1 << 16,
	BUS_MCEERR_AO = 5, /* no fault: nothing happens again */
	SIG_IGN_ = 1,
	THREADS_FIELD = 20, /* of /proc/self/stat */
	PR_GET_SECCOMP_ = 21,
	MADV_POPULATE_READ_ = 22,
	INFO = 128,
};

static struct {
	u64 low, span; /* the stack pointers that are runs'; span 0: no handler is there */
	u32 shut; /* the thread is in a conversation, its signals blocked */
	u32 reads; /* before the handler is there */
	u64 owner; /* fs base of the thread whose command it is; 0: none */
	struct agent_alone what;
	u64 fault_at;
	u64 bad[PAGES]; /* addresses of pages that had a fault, by their number; 0: none */
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
	u32 sent = alone.sent;

	alone.reads = FIRST + 1;
	if (!alone.span)
		return;
	agent_store(&alone.span, 0ull);
	for (u32 i = 0; i < 2; i++)
		shim_sys4(NR_SIGACTION, both[i], &alone.theirs[i], 0, 8);
	agent_quick_release();
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

	if (info->code > 0 && !(signo == SIGBUS_ && info->code == BUS_MCEERR_AO)) {
		if (uc->ip - (u64)agent_guarded < size) {
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
	if (!alone.theirs[i].handler)
		over();
}

static int enter(void)
{
	const struct shim_thread *t = agent_usual();
	struct agent_stack *s;

	if (!t || !t->guard_sp || t->outer_sp || agent_load(&shim_agent_root.mailbox) ||
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

static int suspect(u64 addr)
{
	return addr < LEAST || unlikely(*bad_page(addr) == (addr & -(u64)AGENT_PAGE));
}

/* Nothing can be read there, says the kernel. A filter may mind the quicker question. */
static int nothing(u64 addr)
{
	u64 page = addr & -(u64)AGENT_PAGE;
	long ret = alone.filtered ? 0 : shim_sys3(NR_MADVISE, page, AGENT_PAGE, MADV_POPULATE_READ_);
	u8 byte;

	if (ret == -E_NOMEM || ret == -E_FAULT || shim_copy_asking(&byte, addr, 1))
		return 1;
	if (*bad_page(addr) == page)
		*bad_page(addr) = 0;
	return 0;
}

static long remember(long ret)
{
	if (unlikely(ret < 0) && alone.fault_at) {
		*bad_page(alone.fault_at) = alone.fault_at & -(u64)AGENT_PAGE;
		alone.fault_at = 0;
	}
	return ret;
}

static long copy(void *dst, u64 src, u64 len)
{
	u64 last = src + len - 1;

	if (!is_run((u64)__builtin_frame_address(0)))
		return agent_guarded_copy(dst, src, len);
	if (len && ((suspect(src) && nothing(src)) || (suspect(last) && nothing(last))))
		return -E_FAULT;
	return remember(agent_guarded_copy(dst, src, len));
}

/* What lies behind its first page may be behind its end. */
static long string(void *dst, u64 src, u64 size)
{
	if (!is_run((u64)__builtin_frame_address(0)))
		return agent_guarded_string(dst, src, size);
	if (size && suspect(src) && nothing(src))
		return -E_FAULT;
	return remember(agent_guarded_string(dst, src, size));
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
	alone.reads = alone.sent = 0;
	alone.fault_at = 0;
	agent_zero(alone.bad, sizeof(alone.bad));
	agent_store(&shim_stays, stays);
	agent_store(&shim_quick, &reads);
}

u32 agent_alone_sent(void)
{
	return alone.sent && is_owner();
}

void agent_alone_end(void)
{
	if (!is_owner())
		return;
	agent_store(&shim_quick, &agent_quick);
	agent_store(&shim_stays, agent_stays);
	over();
	agent_store(&alone.owner, 0ull);
}

void agent_alone_shut(int on)
{
	__atomic_add_fetch(&alone.shut, on ? 1 : -1, __ATOMIC_SEQ_CST);
}
