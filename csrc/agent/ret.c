/*
 * Return probes: who owns which slot (slots.S), and when a slot is free again.
 *
 * A thread has a block of 64 slots, the kernel's MAX_URETPROBE_DEPTH. An entry is left by the
 * return itself, or dropped when its frame is gone (longjmp, exception): its stack address is below
 * the stack pointer of a later hit on the same stack. On another stack (fibres, sigaltstack) that
 * says nothing, so such entries go only when the word on their stack is no longer the slot.
 * A slot is never given to a second invocation while the first could still return.
 */
#include "state.h"
#include "ret.h"

extern u8 agent_ret_slots[];
extern u64 agent_ret_table[];

static struct ret_block *blocks;
static struct ret_entry *entries;

long agent_ret_init(void)
{
	u64 size = RET_SLOTS * sizeof(struct ret_entry) + RET_BLOCKS * sizeof(struct ret_block);
	long at;

	if (blocks)
		return 0;
	at = shim_sys6(NR_MMAP, (long)agent_ret_table, RET_SLOTS * 8, PROT_RW,
		       MAP_PRIVATE_ | MAP_ANON_ | MAP_FIXED_, -1, 0);
	if (at != (long)agent_ret_table)
		return -E_NOMEM;
	at = shim_sys6(NR_MMAP, 0, (long)size, PROT_RW, MAP_PRIVATE_ | MAP_ANON_, -1, 0);
	if (at < 0 && at > -4096)
		return -E_NOMEM;
	shim_stack_init((u64)agent_ret_slots, RET_SLOTS * 8);
	entries = (struct ret_entry *)at;
	blocks = (struct ret_block *)(entries + RET_SLOTS);
	return 0;
}

static u32 number(const struct ret_block *b, u32 index)
{
	return (u32)(b - blocks) * RET_DEPTH + index;
}

static u64 slot_of(const struct ret_block *b, u32 index)
{
	return (u64)agent_ret_slots + number(b, index) * 8ull;
}

static void reset(struct ret_block *b, u32 tid)
{
	b->n = 0;
	b->used = 0;
	b->busy_sp = 0;
	b->lo = b->hi = 0;
	b->learned = 0;
	agent_store(&b->tid, tid);
}

/* The fork child keeps the block of the thread that forked, whose pending returns it will make;
 * the others' threads do not exist here. */
void agent_ret_forked(u64 fs_base, u32 pid, u32 tid)
{
	(void)pid;
	for (u32 i = 0; i < RET_BLOCKS && blocks; i++) {
		if (blocks[i].key == fs_base)
			blocks[i].tid = tid;
		else if (blocks[i].key)
			blocks[i].key = 0;
	}
}

/* This thread's block; else a free one; else one of a thread that is no more. */
static struct ret_block *claim(struct shim_thread *t)
{
	for (u32 i = 0; i < RET_BLOCKS; i++)
		if (blocks[i].key == t->fs_base) {
			if (blocks[i].tid != t->tid)
				reset(&blocks[i], t->tid);
			return &blocks[i];
		}
	for (u32 i = 0; i < 2 * RET_BLOCKS; i++) {
		struct ret_block *b = &blocks[i % RET_BLOCKS];
		u64 key = b->key;

		if (i < RET_BLOCKS ? key != 0 : shim_sys3(NR_TGKILL, t->tgid, b->tid, 0) != -E_SRCH)
			continue;
		if (__atomic_compare_exchange_n(&b->key, &key, t->fs_base, 0, __ATOMIC_ACQUIRE,
						__ATOMIC_RELAXED)) {
			reset(b, t->tid);
			return b;
		}
	}
	return NULL;
}

static void drop(struct ret_block *b, u32 at)
{
	u32 index = b->order[at];

	for (u32 i = at; i + 1 < b->n; i++)
		b->order[i] = b->order[i + 1];
	b->n--;
	b->used &= ~(1ull << index);
}

/* May the top entries be dropped by comparing stack addresses alone? */
static int own(struct ret_block *b, u64 sp)
{
	return sp - b->lo < b->hi - b->lo;
}

static void reclaim(struct ret_block *b, u64 sp)
{
	while (b->n) {
		u32 index = b->order[b->n - 1];
		u64 there = entries[number(b, index)].sp;

		if (there > sp)
			return;
		if (there == sp && *(u64 *)sp == slot_of(b, index))
			return; /* a tail call inside the first invocation: both will fire */
		if (there && there < sp) {
			if (b->learned < 3 && !own(b, sp)) {
				b->learned++;
				agent_stack_bounds(sp, b->key & ~1ull, &b->lo, &b->hi);
			}
			if (!own(b, sp) || !own(b, there))
				return;
		}
		drop(b, b->n - 1);
	}
}

/* A full block: each entry is looked at, on whatever stack it is. */
static void collect(struct ret_block *b, u64 sp)
{
	for (u32 i = b->n; i-- > 0;) {
		u32 index = b->order[i];
		u64 there = entries[number(b, index)].sp;
		u64 word;

		if (there && !(own(b, sp) && own(b, there) && there < sp) &&
		    shim_copy_from(&word, there, 8) == 0 && word == slot_of(b, index))
			continue;
		drop(b, i);
	}
}

/* Signal handlers run probed functions too: a block is changed by one of them at a time. */
static int begin(struct ret_block *b, u64 sp)
{
	if (b->busy_sp) {
		if (!agent_abandoned(b->busy_sp, sp))
			return 0;
		b->used = 0; /* what was begun is dropped: 'order' says what is */
		for (u32 i = 0; i < b->n; i++)
			b->used |= 1ull << b->order[i];
	}
	agent_store(&b->busy_sp, sp);
	return 1;
}

void agent_ret_push(struct shim_thread *t, struct shim_pt_regs *regs, struct shim_site *site)
{
	struct ret_block *b = (struct ret_block *)t->ret_block;
	u64 *where = (u64 *)regs->sp;
	u32 index, slot;

	if (!b) {
		b = claim(t);
		t->ret_block = (u64)b;
	}
	if (!b || !begin(b, (u64)__builtin_frame_address(0))) {
		agent_missed(site, SHIM_LINK_RET);
		return;
	}
	reclaim(b, regs->sp);
	if (b->n == RET_DEPTH)
		collect(b, regs->sp);
	if (b->n == RET_DEPTH) {
		agent_store(&b->busy_sp, 0ull);
		agent_missed(site, SHIM_LINK_RET);
		return;
	}
	index = (u32)__builtin_ctzll(~b->used);
	slot = number(b, index);
	entries[slot].sp = regs->sp;
	entries[slot].site = (u64)site;
	entries[slot].addr = site->addr;
	agent_ret_table[slot] = *where;
	b->used |= 1ull << index;
	b->order[b->n] = (u8)index;
	agent_store(&b->n, b->n + 1);
	agent_store(where, slot_of(b, index));
	agent_store(&b->busy_sp, 0ull);
}

/* The entry of a slot is over. If that is met inside a change, it is only marked. */
static void pop(struct ret_block *b, u32 index, u64 sp)
{
	if (!begin(b, sp)) {
		entries[number(b, index)].sp = 0;
		return;
	}
	for (u32 i = b->n; i-- > 0;)
		if (b->order[i] == index) {
			drop(b, i);
			break;
		}
	agent_store(&b->busy_sp, 0ull);
}

/* Where a chain of slots leads in the end. */
static u64 original(u64 addr)
{
	for (u32 i = 0; i < RET_DEPTH && addr - (u64)agent_ret_slots < RET_SLOTS * 8; i++)
		addr = agent_ret_table[(addr - (u64)agent_ret_slots) / 8];
	return addr;
}

/*
 * From agent_ret_common: regs are as after the return, but for ip. slot_end is what the slot's call
 * pushed. The result is where to return to, perhaps another slot.
 */
u64 agent_return(struct shim_pt_regs *regs, u64 slot_end)
{
	u32 slot = (u32)((slot_end - (u64)agent_ret_slots) / 8);
	struct ret_entry entry = entries[slot];
	u64 back = agent_ret_table[slot];
	struct shim_site *site = (struct shim_site *)entry.site;
	struct agent_guard guard;
	struct shim_thread *t;

	regs->ip = original(back);
	pop(&blocks[slot / RET_DEPTH], slot % RET_DEPTH, (u64)__builtin_frame_address(0));
	if (!agent_load(&site->first) || site->addr != entry.addr)
		return back;
	t = agent_thread();
	if (!t || agent_guard_enter(t, (u64)__builtin_frame_address(0), &guard)) {
		agent_missed(site, SHIM_LINK_RET);
		return back;
	}
	agent_run_links(t, regs, site, SHIM_LINK_RET);
	agent_guard_leave(t, &guard);
	return back;
}
