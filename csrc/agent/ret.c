/*
 * Return probes: who owns which slot (slots.S), and when a slot is free again.
 *
 * A slot leads to where the function was called from, or, after a tail call, to the slot of the
 * function that made it. In agent_ret_table, for unwinders, it stands for the caller in both cases:
 * two frames of slots in a row would have one identity.
 *
 * A thread has a block of 64 slots, the kernel's MAX_URETPROBE_DEPTH. A slot's owner is the address
 * of the return address that it stands for; 0: free. It is given up by the return itself, on
 * whichever thread that happens, or found to be over when slots run short: the word there is not
 * the slot's any more, or, if that is not enough, it lies below the stack pointer on the thread's
 * own stack (left by longjmp or an exception). On any other stack (fibres, sigaltstack, another
 * thread's) the word alone counts, and nobody else's invocation is ever taken for over.
 *
 * No lock: a signal handler's push claims another slot, by one instruction; who returns on another
 * thread only gives up. A handler that leaves by siglongjmp leaves an odd owner behind, which is
 * over as any other that lies below.
 */
#include "hit.h"
#include "both.h"
#include "ret.h"

extern u8 agent_ret_slots[];
extern struct ret_place agent_ret_table[];
extern struct ret_owner agent_ret_owners[];
extern struct ret_entry agent_ret_entries[];

enum { CLAIMED = 1 }; /* bit 0 of an owner: it does not stand on the stack yet */

static struct ret_block *blocks;

long agent_ret_init(void)
{
	long at;

	if (blocks)
		return 0;
	at = shim_sys6(NR_MMAP, (long)agent_ret_table, 3 * RET_BYTES, PROT_RW,
		       MAP_PRIVATE_ | MAP_ANON_ | MAP_FIXED_, -1, 0);
	if (at != (long)agent_ret_table)
		return -E_NOMEM;
	at = (long)agent_map_anon(RET_BLOCKS * sizeof(struct ret_block));
	if (!at)
		return -E_NOMEM;
	shim_stack_init((u64)agent_ret_slots, RET_BYTES, RET_SLOT);
	blocks = (struct ret_block *)at;
	return 0;
}

static u32 number(const struct ret_block *b, u32 index)
{
	return (u32)(b - blocks) * RET_DEPTH + index;
}

static u64 slot_of(const struct ret_block *b, u32 index)
{
	return (u64)agent_ret_slots + number(b, index) * (u64)RET_SLOT;
}

static int is_slot(u64 addr)
{
	return addr - (u64)agent_ret_slots < RET_BYTES;
}

/* The number of a slot by an address in it. */
static u32 slot_at(u64 addr)
{
	return (u32)((addr - (u64)agent_ret_slots) / RET_SLOT);
}

/* What an address stands for: a slot for where its invocation was called from. */
static u64 original(u64 addr)
{
	for (u32 i = 0; i < RET_DEPTH && is_slot(addr); i++)
		addr = agent_load(&agent_ret_table[slot_at(addr)].original);
	return addr;
}

/* The block is another thread's from now on. What its slots stand for may go on elsewhere, as
 * fibres do; what was only claimed does not. */
static void take(struct ret_block *b, u32 tid)
{
	for (u32 i = 0; i < RET_DEPTH; i++)
		if (agent_ret_owners[number(b, i)].owner & CLAIMED)
			agent_store(&agent_ret_owners[number(b, i)].owner, 0ull);
	b->lo = b->hi = 0;
	b->learned = 0;
	b->full = 0;
	b->hint = slot_of(b, 0);
	agent_store(&b->tid, tid);
}

/* The fork child keeps the block of the thread that forked, whose pending returns it will make. The
 * others' threads do not exist here, and their blocks are taken as those of dead ones are. */
void agent_ret_forked(u64 fs_base, u32 pid, u32 tid)
{
	(void)pid;
	for (u32 i = 0; i < RET_BLOCKS && blocks; i++)
		if (blocks[i].key == fs_base)
			blocks[i].tid = tid;
}

static int shared(const struct ret_block *b)
{
	return b >= blocks + RET_BLOCKS - RET_SHARED;
}

/* This thread's block; else a free one; else one of a thread that is no more; else a shared one. */
static struct ret_block *claim(struct shim_thread *t)
{
	enum { OWN = RET_BLOCKS - RET_SHARED };
	u32 tid = agent_own_tid(t);

	for (u32 i = 0; i < OWN; i++)
		if (blocks[i].key == t->fs_base) {
			if (blocks[i].tid != tid)
				take(&blocks[i], tid);
			return &blocks[i];
		}
	for (u32 i = 0; i < 2 * OWN; i++) {
		struct ret_block *b = &blocks[i % OWN];
		u64 key = b->key;

		if (i < OWN ? key != 0 : shim_sys3(NR_TGKILL, agent_own_tgid(t), b->tid, 0) != -E_SRCH)
			continue;
		if (__atomic_compare_exchange_n(&b->key, &key, t->fs_base, 0, __ATOMIC_ACQUIRE,
						__ATOMIC_RELAXED)) {
			take(b, tid);
			return b;
		}
	}
	return &blocks[OWN + t->index % RET_SHARED];
}

static int own(const struct ret_block *b, u64 sp)
{
	return sp - b->lo < b->hi - b->lo;
}

/* Can the word at where be read as it is? Else it is copied, perhaps by a system call. */
static int near(const struct ret_block *b, u64 where, u64 sp)
{
	return own(b, sp) && own(b, where) && where >= sp;
}

/* Does the slot still stand where its owner says, itself or under others (tail calls)? On its way
 * back it is followed by its call's return address, for as long as it is needed. */
static int stands(const struct ret_block *b, u32 index, u64 where, u64 sp)
{
	u64 word;

	if (near(b, where, sp))
		word = *(volatile u64 *)where;
	else if (shim_copy_from(&word, where, 8))
		return 0;
	for (u32 i = 0; i < RET_DEPTH && is_slot(word); i++) {
		if (word - slot_of(b, index) < RET_SLOT)
			return 1;
		word = agent_load(&agent_ret_owners[slot_at(word)].back);
	}
	return 0;
}

/* Below the stack pointer on the thread's own stack: over, but for fibres that live in a frame
 * above. Where it would have returned to is kept for a while, in case it does. */
static int below(struct ret_block *b, u32 index, u64 where, u64 sp)
{
	u32 at = b->ngone % (sizeof(b->gone) / sizeof(b->gone[0]));

	if (!own(b, sp) || !own(b, where) || where >= sp)
		return 0;
	b->gone[at].where = where;
	b->gone[at].back = agent_ret_owners[number(b, index)].back;
	b->ngone++;
	return 1;
}

/* Is it over? force: there is no other, and what is asked without has been. Of words that are to be
 * copied, *copies are looked at. */
static int over(struct ret_block *b, u32 index, u64 owner, u64 sp, int force, u32 *copies)
{
	u64 where = owner & ~(u64)CLAIMED;

	if (owner & CLAIMED)
		return own(b, sp) && own(b, where) && where < sp;
	if (force)
		return below(b, index, where, sp);
	if (!near(b, where, sp)) {
		if (!*copies)
			return 0;
		--*copies;
	}
	return !stands(b, index, where, sp);
}

/* From one thread and its signal handlers only, one instruction is atomic enough. */
static int change(const struct ret_block *b, u64 *word, u64 from, u64 to)
{
	u64 got = from;

	if (shared(b))
		return __atomic_compare_exchange_n(word, &got, to, 0, __ATOMIC_ACQ_REL,
						   __ATOMIC_RELAXED);
	__asm__ volatile("cmpxchg %2, %1" : "+a"(got), "+m"(*word) : "r"(to) : "memory", "cc");
	return got == from;
}

/* A slot for an invocation whose return address stands at sp: an index, or RET_DEPTH: 64 go on.
 * Where they do on other stacks, as in fibres that wait, they are not all asked at each hit. */
static u32 find(struct ret_block *b, u64 sp)
{
	u32 copies = b->full ? RET_COPIES : RET_DEPTH;

	if (b->learned < 3 && !shared(b) && !own(b, sp)) {
		b->learned++;
		agent_stack_bounds(sp, b->key & ~1ull, &b->lo, &b->hi);
	}
	for (u32 n = 0; n < 2 * RET_DEPTH; n++) {
		u32 index = (b->next + n) % RET_DEPTH;
		u64 *word = &agent_ret_owners[number(b, index)].owner;
		u64 owner = agent_load(word);

		if (owner && !over(b, index, owner, sp, n >= RET_DEPTH, &copies))
			continue;
		if (change(b, word, owner, sp | CLAIMED)) {
			if (owner)
				b->full = 0;
			b->next = index + 1;
			return index;
		}
	}
	b->full = 1;
	b->next += RET_COPIES;
	return RET_DEPTH;
}

u64 agent_ret_call(u32 slot)
{
	return (u64)agent_ret_slots + slot * (u64)RET_SLOT;
}

long agent_ret_push(struct shim_thread *t, u64 sp, struct shim_site *site, u64 body)
{
	struct ret_block *b = (struct ret_block *)t->ret_block;
	u64 *where = (u64 *)sp;
	u32 index, slot;

	if (!b) {
		b = claim(t);
		t->ret_block = (u64)b;
	}
	index = b ? find(b, sp) : RET_DEPTH;
	if (index == RET_DEPTH) {
		agent_missed(site, SHIM_LINK_RET);
		return -E_BUSY;
	}
	slot = number(b, index);
	if (b->hint)
		b->hint = slot_of(b, b->next % RET_DEPTH);
	agent_ret_entries[slot].site = (u64)site;
	agent_ret_entries[slot].addr = site->addr;
	agent_ret_owners[slot].back = *where;
	agent_ret_table[slot].body = body;
	agent_store(&agent_ret_table[slot].original, original(*where));
	agent_store(where, slot_of(b, index) + RET_INTO);
	agent_store(&agent_ret_owners[slot].owner, sp);
	return slot;
}

/* Where a slot leads that was given to another invocation meanwhile. */
static u64 lost(const struct ret_block *b, u64 where, u64 otherwise)
{
	for (u32 i = 0; i < sizeof(b->gone) / sizeof(b->gone[0]); i++)
		if (b->gone[i].where == where)
			return b->gone[i].back;
	return otherwise;
}

/* One after the other; the guard has been passed. */
static __attribute__((noinline)) void links(struct shim_thread *t, struct shim_pt_regs *regs,
					    struct shim_site *site, u32 slot)
{
	struct agent_both both;

	if (agent_load(&site->addr) != agent_ret_entries[slot].addr)
		return;
	agent_both_take(slot, &both);
	agent_hit_links(t, regs, regs, site, SHIM_LINK_RET, &both);
}

/* The thread is inside a run, or was when it left that by a jump. */
static __attribute__((noinline)) void inside(struct shim_thread *t, struct shim_pt_regs *regs,
					     struct shim_site *site, u32 slot)
{
	struct agent_guard guard;

	if (agent_guard_enter(t, (u64)regs, &guard)) {
		agent_missed(site, SHIM_LINK_RET);
		return;
	}
	links(t, regs, site, slot);
	agent_guard_leave(t, &guard);
}

/*
 * From agent_ret_common, which gives the slot up afterwards: regs are as after the return, but for
 * ip. into: the word on the stack, an address in the slot. The result is where to return to, perhaps
 * another slot.
 */
u64 agent_return(struct shim_pt_regs *regs, u64 into)
{
	u32 slot = slot_at(into);
	struct ret_entry entry = agent_ret_entries[slot];
	struct shim_site *site = (struct shim_site *)entry.site;
	u64 back = agent_ret_owners[slot].back;
	u64 owner = agent_load(&agent_ret_owners[slot].owner);
	struct shim_thread *t;
	u32 at;
	struct shim_site_link *link;

	if (owner && owner != regs->sp - 8)
		back = lost(&blocks[slot / RET_DEPTH], regs->sp - 8, back);
	regs->ip = original(back); /* unwinders find it there too, slots.S */
	if (owner != regs->sp - 8)
		return back;
	if (!agent_load(&site->first) || site->addr != entry.addr)
		return back;
	blocks[slot / RET_DEPTH].next = slot %
					RET_DEPTH; /* the next call finds it, still in the cache */
	t = agent_thread_here();
	if (unlikely(!t)) {
		agent_missed(site, SHIM_LINK_RET);
		return back;
	}
	if (unlikely(!agent_guard_outermost(t, (u64)regs))) {
		inside(t, regs, site, slot);
		return back;
	}
	at = agent_load(&site->first);
	link = &agent_links()[(at - 1) % SHIM_MAX_SITE_LINKS];
	if (likely(at) && link->kind == SHIM_LINK_RET && agent_alone(link, AGENT_PLAIN) &&
	    likely(agent_load(&site->addr) == entry.addr)) {
		if (unlikely(!agent_hit_run(t, regs, regs, site, link, SHIM_LINK_RET)))
			agent_missed_link(link);
	} else {
		links(t, regs, site, slot);
	}
	agent_guard_over(t);
	return back;
}

/* Beside stopped threads: functions that are to return into a slot return to their callers. */
void agent_ret_withdraw(void)
{
	for (u32 slot = 0; slot < RET_SLOTS && blocks; slot++) {
		u64 where = agent_ret_owners[slot].owner & ~1ull, word, back;

		if (!where)
			continue;
		if (!shim_copy_from(&word, where, 8) && is_slot(word)) {
			back = original(word);
			shim_copy_to(where, &back, 8);
		}
		agent_ret_owners[slot].owner = 0;
	}
}

/* Their memory is about to go. */
void agent_ret_end(void)
{
	blocks = NULL;
}
