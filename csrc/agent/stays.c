/*
 * What copies need not ask the kernel for (copy.c): who runs, and which memory is there as long as the
 * thread is where it is: its own stack, from the stack pointer up. Everything above is frames that are going to
 * be returned to, and the C library's block of the thread; whoever took a page of that away would end the
 * process himself. Nothing else is like that: another thread may unmap any other memory between a look and
 * a read of it.
 *
 * A stack is known by /proc/self/maps, at the first copy of a run in a thread. Of the first thread it is the
 * mapping called [stack], of another one the mapping which ends behind the thread's block, with a page
 * below it that nobody may touch: so it can't have grown together with another stack. A stack pointer
 * elsewhere (a signal's stack, a coroutine's, a goroutine's) is on no known stack.
 */
#include "hit.h"
#include "stays.h"

enum { GROWN = 32 /* looks at a stack that has grown */, ELSEWHERE = 4 /* and from other stacks */ };

static struct agent_stack *stacks;

long agent_stays_init(void)
{
	if (!stacks)
		stacks = (struct agent_stack *)agent_map_anon(AGENT_THREADS * sizeof(*stacks));
	return stacks ? 0 : -E_NOMEM;
}

/* Their memory is about to go. */
void agent_stays_end(void)
{
	stacks = NULL;
}

/* A line of maps. */
struct mapping {
	u64 lo, hi, inode;
	u64 name; /* its last eight characters */
	char perms[4];
	u32 field, at;
};

static void put(struct mapping *m, char c)
{
	enum { LO = 0, HI = 1, PERMS = 2, INODE = 5, NAME = 6 };
	u64 digit = (u64)(c <= '9' ? c - '0' : c - 'a' + 10);

	if (m->field < NAME && (c == ' ' || (c == '-' && m->field == LO))) {
		m->field++;
		m->at = 0;
	} else if (m->field == LO) {
		m->lo = m->lo << 4 | digit;
	} else if (m->field == HI) {
		m->hi = m->hi << 4 | digit;
	} else if (m->field == PERMS && m->at < 4) {
		m->perms[m->at++] = c;
	} else if (m->field == INODE) {
		m->inode = m->inode * 10 + digit;
	} else if (m->field == NAME) {
		m->name = m->name << 8 | (u8)c;
	}
}

/* The mapping that sp is in, and the one before. 0: there is none. */
static int find(u64 sp, struct mapping *here, struct mapping *before)
{
	long fd = shim_sys3(NR_OPEN, "/proc/self/maps", O_CLOEXEC_, 0), len, found = 0;
	char buf[1024];

	agent_zero(here, sizeof(*here));
	while (fd >= 0 && !found && (len = shim_sys3(NR_READ, fd, buf, sizeof(buf))) > 0)
		for (long i = 0; i < len && !found; i++) {
			if (buf[i] != '\n') {
				put(here, buf[i]);
				continue;
			}
			found = sp >= here->lo && sp < here->hi;
			if (found)
				break;
			*before = *here;
			agent_zero(here, sizeof(*here));
		}
	if (fd >= 0)
		shim_sys1(NR_CLOSE, fd);
	return (int)found;
}

static void look(const struct shim_thread *t, u64 sp)
{
	const u64 stack = 0x5b737461636b5dull; /* "[stack]" */
	u32 at = t->index % AGENT_THREADS, tid = agent_own_tid(t);
	struct mapping here, before = { 0 };
	u64 fs = t->fs_base & ~1ull;

	if (stacks[at].tid != tid) {
		stacks[at].lo = stacks[at].hi = stacks[at].child = 0;
		stacks[at].looks = stacks[at].first = 0;
		stacks[at].run = stacks[at].may = stacks[at].open = stacks[at].asked = 0;
		agent_store(&stacks[at].tid, tid);
	}
	stacks[at].looks++;
	if (!find(sp, &here, &before) || here.perms[0] != 'r' || here.perms[1] != 'w' ||
	    here.perms[3] != 'p' || here.inode)
		return;
	if ((here.name & 0xffffffffffffffull) == stack && t->tid == t->tgid) {
		stacks[at].hi = here.hi;
		stacks[at].first = 1;
		agent_store(&stacks[at].lo, here.lo);
	} else if (fs > sp && fs < here.hi && before.hi == here.lo && before.perms[0] == '-' &&
		   before.perms[1] == '-') {
		stacks[at].hi = (fs + AGENT_PAGE) & -(u64)AGENT_PAGE;
		agent_store(&stacks[at].lo, here.lo);
	}
}

/* A child of vfork finds its parent's, whose memory and stack it has. */
const struct shim_thread *agent_usual(void)
{
	const struct shim_thread *t;
	u64 fs_base;

	if (unlikely(!agent_load(&agent_private.ready) || !agent_private.fsgsbase || agent_muted()))
		return NULL;
	fs_base = agent_fs_base();
	t = &agent_threads()[agent_thread_hash(fs_base)];
	if (unlikely(t->fs_base != fs_base || !t->tid_word) ||
	    unlikely(__atomic_load_n((u32 *)t->tid_word, __ATOMIC_RELAXED) != t->tid))
		return NULL;
	return t;
}

u32 agent_known_tid(void)
{
	const struct shim_thread *t = agent_usual();

	return t ? agent_own_tid(t) : 0;
}

static int worth_a_look(u32 at, u32 tid, u64 sp)
{
	if (stacks[at].tid != tid)
		return 1;
	if (!stacks[at].lo)
		return stacks[at].looks < ELSEWHERE;
	return stacks[at].first && sp < stacks[at].lo && stacks[at].looks < GROWN;
}

u64 agent_stays(u64 addr)
{
	const struct shim_thread *t = agent_usual();
	u64 sp = (u64)__builtin_frame_address(0);
	u32 at;

	if (!t || addr < sp)
		return 0;
	at = t->index % AGENT_THREADS;
	if (likely(stacks[at].tid == t->tid && sp >= stacks[at].lo) && likely(stacks[at].lo))
		return addr < stacks[at].hi ? stacks[at].hi : 0;
	/* a thread that is in no run may be anywhere */
	if (t->guard_sp && agent_own_tid(t) == t->tid && worth_a_look(at, t->tid, sp))
		look(t, sp);
	return stacks[at].tid == t->tid && stacks[at].lo && sp >= stacks[at].lo && addr < stacks[at].hi
		       ? stacks[at].hi
		       : 0;
}

static struct agent_stack *own(void)
{
	const struct shim_thread *t = agent_usual();

	return t && stacks ? &stacks[t->index % AGENT_THREADS] : NULL;
}

void agent_stays_forget(void)
{
	struct agent_stack *s = own();

	if (s)
		s->open = s->asked = 0;
}

void agent_stays_child(void)
{
	struct agent_stack *s = own();

	if (s)
		s->child = 1;
	agent_stays_forget();
}

struct agent_stack *agent_room(const struct shim_thread *t, u64 bytes)
{
	struct agent_stack *s = &stacks[t->index % AGENT_THREADS];
	u64 sp = (u64)__builtin_frame_address(0);

	return agent_stays(sp) && s->tid == t->tid && sp - s->lo >= bytes ? s : NULL;
}
