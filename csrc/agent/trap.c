/*
 * int3: where no jump fits a site is one byte, and its hit a SIGTRAP. The handler leads the thread to
 * the site's trampoline, as a jump would have, and nothing else: programs run there, outside of the
 * signal, with the registers, the mask and the stack of the place.
 *
 * The kernel kills a process that meets an int3 with SIGTRAP blocked or ignored (force_sig). So there is
 * no such site but where calls are met (sys.c), and while there is one the signal is blocked by
 * nobody: whoever asks for that gets all else, and is told that it is (trapcalls.c).
 *
 * A thread may have met the byte before it went and be told of it afterwards: it goes back to the
 * instruction that stands there again.
 */
#include "trap.h"
#include "trapcalls.h"
#include "proc.h"

enum {
	TRAPS = 256,
	SI_KERNEL_ = 0x80,
	FLAGS = 4 | 0x08000000 | 0x10000000 | 0x40000000 | 0x04000000,
	/* SIGINFO ONSTACK RESTART NODEFER RESTORER */
};

struct info {
	s32 signo, errno_, code;
};

struct context { /* struct ucontext, as far as it matters */
	u64 flags, link;
	u64 stack[3];
	u64 r[16], ip;
};

struct entry {
	u64 ino;
	s64 off;
	u16 reclen;
	u8 type;
	char name[];
};

void agent_tick_restorer(void);
static void on_trap(int signo, struct info *info, struct context *uc);

static u32 traps[TRAPS], ntraps, more; /* more: there are others, somewhere in the table */
u64 agent_sync_mask;

/* How many places are to be looked at; all: of the whole table. */
static u32 places(u32 all)
{
	return agent_load(all ? &shim_agent_root.nr_sites : &ntraps);
}

static const struct shim_site *trap_at(u32 i, u32 all)
{
	const struct shim_site *site = &agent_sites()[(all ? i : traps[i]) % SHIM_MAX_SITES];

	return site->addr && site->flags & SHIM_SITE_TRAP ? site : NULL;
}

int agent_trap_used(void)
{
	u32 all = agent_load(&more);

	for (u32 i = 0; i < places(all); i++) {
		const struct shim_site *site = trap_at(i, all);

		if (site && (site->first || site->patched))
			return 1;
	}
	return 0;
}

void agent_trap_note(u32 index)
{
	for (u32 i = 0; i < ntraps; i++)
		if (traps[i] == index)
			return;
	if (ntraps == TRAPS) {
		agent_store(&more, 1u);
		return;
	}
	traps[ntraps] = index;
	agent_store(&ntraps, ntraps + 1);
}

/* SigBlk of a thread has the signal; what cannot be read has. */
static int blocks(u32 entry)
{
	struct proc_file f;
	char line[64];
	int found = 1;

	proc_open_task(&f, entry, "/status");
	while (proc_line(&f, line, sizeof(line)) >= 0) {
		const char *at = line + 7;

		if (agent_differs(line, "SigBlk:", 7))
			continue;
		while (*at == '\t' || *at == ' ')
			at++;
		found = (proc_number(&at, 16) & TRAP_BIT) != 0;
	}
	proc_close(&f);
	return found;
}

/* Of this thread by what the conversation has put aside, of the others as they stand. */
static int anybody_blocks(u32 reason)
{
	u64 own = reason == SHIM_SYNC_KEEPER ? agent_service_frame.sigmask : agent_sync_mask;
	u32 self = (u32)shim_sys0(NR_GETTID), found = (own & TRAP_BIT) != 0;
	char buf[1024] __attribute__((aligned(8)));
	long fd = shim_sys3(NR_OPEN, "/proc/self/task", O_DIRECTORY_ | O_CLOEXEC_, 0), len = 0;

	if (fd < 0)
		return 1;
	while (!found && (len = shim_sys3(NR_GETDENTS64, fd, buf, sizeof(buf))) > 0)
		for (long at = 0; at < len; at += ((struct entry *)(buf + at))->reclen) {
			const char *name = ((struct entry *)(buf + at))->name;
			u32 entry = (u32)proc_number(&name, 10);
			u32 tid = entry ? agent_task_own(entry) : self;

			found |= tid != self && tid != agent_load(&agent_sync_leaver) && blocks(entry);
		}
	shim_sys1(NR_CLOSE, fd);
	return found || len < 0;
}

long agent_trap_begin(u32 reason)
{
	struct trap_action mine = { (u64)on_trap, FLAGS, (u64)agent_tick_restorer, 0 };
	struct trap_action there = { 0, 0, 0, 0 };
	long ret;

	if (reason != SHIM_SYNC_KEEPER && (reason != SHIM_SYNC_START || agent_nthreads() != 1))
		return -E_BUSY;
	if (anybody_blocks(reason))
		return -E_BUSY;
	ret = shim_sys4(NR_SIGACTION, SIGTRAP_, 0, &there, 8);
	if (!ret && there.handler != mine.handler) {
		agent_trap_theirs = there;
		ret = shim_sys4(NR_SIGACTION, SIGTRAP_, &mine, 0, 8);
	}
	if (ret)
		return -E_OPNOTSUPP; /* a filter refuses it */
	trap_unmask_handlers();
	return 0;
}

void agent_trap_end(void)
{
	struct trap_action there = { 0, 0, 0, 0 };

	if (agent_trap_used())
		return;
	if (!shim_sys4(NR_SIGACTION, SIGTRAP_, 0, &there, 8) && there.handler == (u64)on_trap)
		shim_sys4(NR_SIGACTION, SIGTRAP_, &agent_trap_theirs, 0, 8);
	ntraps = more = 0;
}

/* One that is the program's own. */
static void pass_on(int signo, struct info *info, struct context *uc)
{
	struct trap_action act = agent_trap_theirs;
	u64 mask = act.mask & ~TRAP_BIT;

	if (act.handler == 1 && info->code <= 0)
		return;
	if (act.handler <= 1) {
		struct trap_action none = { 0, SA_RESTORER_, (u64)agent_tick_restorer, 0 };

		shim_sys4(NR_SIGACTION, SIGTRAP_, &none, 0, 8);
		shim_sys3(NR_TGKILL, shim_sys0(NR_GETPID), shim_sys0(NR_GETTID), SIGTRAP_);
		return;
	}
	if (act.flags & SA_RESETHAND_)
		agent_trap_theirs.handler = 0;
	shim_sys4(NR_SIGPROCMASK, SIG_BLOCK_, &mask, 0, 8);
	((void (*)(int, struct info *, struct context *))act.handler)(signo, info, uc);
}

/* Called by the kernel. */
static void on_trap(int signo, struct info *info, struct context *uc)
{
	u64 at = uc->ip - 1;
	u32 all = agent_load(&more);

	for (u32 i = 0; info->code == SI_KERNEL_ && i < places(all); i++) {
		const struct shim_site *site = trap_at(i, all);

		if (!site || site->window != at)
			continue;
		if (agent_load(&site->patched))
			uc->ip = site->tramp;
		else if (*(const volatile u8 *)at == site->orig[0])
			uc->ip = at;
		else
			continue;
		return;
	}
	pass_on(signo, info, uc);
}
