/*
 * A seccomp filter that the process is about to put itself under. What it does to the calls that the
 * agent makes is found out before: a filter that minds one of them would end the process at the next
 * hit. Then the agent is muted for good: its links, clocks and conversations end, and what is left of it
 * makes no system call. Windows stay, and lead on; the keeper takes them away from outside.
 *
 * A filter of one thread mutes the process: programs cannot know in which one they are to be silent.
 * Children have it from their parent, filter and silence.
 */
#include "keys.h"
#include "state.h"
#include "clock.h"
#include "stays.h"
#include "sys.h"
#include "table.h"
#include "shim_filter.h"

enum {
	NR_SECCOMP = 317,
	PR_SET_SECCOMP_ = 22,
	PR_SET_TSC_ = 26,
	MODE_STRICT = 1, /* of prctl; one less of seccomp(2) */
	MODE_FILTER = 2,
	DEEPEST = 24, /* some 5 KiB of stack */
	PATIENCE = 20000,
	SIG_SETMASK_ = 2,
};

struct program {
	u16 len, pad[3];
	u64 insns;
};
SHIM_ASSERT(sizeof(struct program) == sizeof(struct sock_fprog));

static struct sock_filter *code; /* FILTER_INSNS of them, mapped by the first who needs them */
static u32 judging; /* who uses it */

void (*agent_mutes)(void);

static int begin(void)
{
	for (u32 i = 0; i < PATIENCE; i++) {
		u32 none = 0;

		if (__atomic_compare_exchange_n(&judging, &none, 1, 0, __ATOMIC_ACQUIRE,
						__ATOMIC_RELAXED))
			return 1;
		agent_pause(i);
	}
	return 0;
}

/* 0: there is no memory to be had. */
static int room(void)
{
	long at = (long)code;

	if (!at)
		at = shim_sys6(NR_MMAP, 0, FILTER_INSNS * sizeof(code[0]), PROT_RW,
			       MAP_PRIVATE_ | MAP_ANON_, -1, 0);
	if (at > 0)
		code = (struct sock_filter *)at;
	return at > 0;
}

/* A filter that the kernel will not take is none. */
static int minds(u64 at)
{
	struct program p;
	int found = 0;

	if (shim_copy_from(&p, at, sizeof(p)) || !p.len || p.len > FILTER_INSNS)
		return 0;
	if (!begin())
		return 1; /* as if */
	if (!room())
		found = 1;
	else if (!shim_copy_from(code, p.insns, p.len * sizeof(code[0])))
		for (u32 i = 0; i < sizeof(shim_needed) / sizeof(shim_needed[0]) && !found; i++)
			found = shim_filter_minds(
				&shim_needed[i],
				shim_filter_verdict(code, p.len, DEEPEST, &shim_needed[i]));
	agent_store(&judging, 0u);
	return found;
}

static void unlink_all(void)
{
	for (u32 i = 0; i < SHIM_MAX_SESSIONS; i++)
		if (shim_agent_root.sessions[i].id)
			agent_unlink(0, i, 0, NULL, 0);
	for (u32 i = 0; i < shim_agent_root.nr_runnables; i++)
		agent_store(&shim_agent_root.runnables[i].live, 0u);
	agent_sys_changed();
}

/* Who does not get the lock leaves the lists as they are: links that are not live are passed by. */
static void mute(void)
{
	u64 all = ~0ull, before = 0;
	long locked;

	shim_sys4(NR_SIGPROCMASK, SIG_SETMASK_, &all, &before, 8);
	locked = agent_lock(PATIENCE);
	agent_store(&shim_agent_root.muted, 1u);
	agent_mailbox_close();
	if (agent_load(&agent_private.ready)) {
		agent_keys_tables(PROT_RW);
		if (!locked)
			unlink_all();
		for (u32 i = 0; i < shim_agent_root.nr_links; i++)
			agent_store(&agent_links()[i].live, 0u);
		agent_clock_mute();
		agent_quick_end();
		agent_settle();
	}
	if (!locked)
		agent_unlock();
	if (agent_mutes)
		agent_mutes();
	shim_sys4(NR_SIGPROCMASK, SIG_SETMASK_, &before, 0, 8);
}

u32 agent_muted(void)
{
	return agent_load(&shim_agent_root.muted);
}

/* The thread is about to make the counter's reading a fault for itself. */
static void forbidden(void)
{
	struct shim_thread *t;

	shim_clock_plain();
	if (!agent_load(&agent_private.ready))
		return;
	t = agent_thread();
	if (t)
		agent_store(&t->clock.tsc, 0);
}

void agent_filter_ahead(u32 nr, u64 a, u64 b, u64 c)
{
	u64 mode = nr == NR_SECCOMP				 ? (u64)(u32)a + 1
		   : nr == NR_PRCTL && (u32)a == PR_SET_SECCOMP_ ? b
								 : 0;
	u32 was_open;

	if (agent_load(&shim_agent_root.muted))
		return;
	if (nr == NR_PRCTL && (u32)a == PR_SET_TSC_ && (u32)b == SHIM_TSC_FORBIDDEN)
		forbidden();
	was_open = shim_key_open();
	if (mode == MODE_STRICT || (mode == MODE_FILTER && minds(c)))
		mute();
	shim_key_back(was_open);
}
