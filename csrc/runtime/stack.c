/*
 * Stacks. In modules built with frame pointers as the kernel walks them: where rbp leads, a pair of
 * (outer rbp, return address) a frame. In others by the module's unwind table (unwind.c). What cannot be
 * read ends the walk. Source: arch/x86/events/core.c, perf_callchain_user().
 *
 * Where code with frame pointers was called by code without, the kernel's walk ends. So does this one if all
 * that is left is the way into the program: what called main(), or the first function of a thread.
 */
#include "unwind.h"

enum { PUSH_RBP = 0x55, CHAIN = 64, WAY_IN = 3 /* frames */ };
enum { ENDBR64 = 0xfa1e0ff3 };

static u64 slots_at, slots_size, slot_size = 1;

void shim_stack_init(u64 slots, u64 size, u64 each)
{
	slots_at = slots;
	slots_size = size;
	slot_size = each;
}

/* The return address that a return probe has taken the place of; a chain of them, if tail calls are
 * probed. */
static u64 original(u64 addr)
{
	for (u32 i = 0; i < CHAIN && addr - slots_at < slots_size; i++)
		addr = *(const u64 *)((addr & -slot_size) + slots_size);
	return addr;
}

bool stack_word(struct stack_window *w, u64 from, u64 *value)
{
	u64 to_page = SHIM_PAGE - from % SHIM_PAGE;

	if (from % 8 || from - w->at >= w->size || w->size - (from - w->at) < 8) {
		w->at = from;
		w->size = to_page < sizeof(w->word) ? to_page : sizeof(w->word);
		if (from % 8)
			w->size = 8;
		if (shim_copy_from(w->word, from, w->size)) {
			w->size = 0;
			return false;
		}
	}
	*value = w->word[(from - w->at) / 8];
	return true;
}

/* Is this the first instruction of a function, whose frame rbp does not show yet? */
static bool at_entry(const struct shim_run *run)
{
	const u8 *code = (const u8 *)run->code;
	u32 word;

	if (!code)
		return false;
	__builtin_memcpy(&word, code, sizeof(word));
	return *code == PUSH_RBP || word == ENDBR64;
}

static bool by_frame_pointer(struct stack_window *w, struct frame *f)
{
	u64 at = f->fp;

	if (!stack_word(w, at, &f->fp) || !stack_word(w, at + 8, &f->ip))
		return false;
	f->sp = at + 16;
	f->call = true;
	return true;
}

/* The caller's frame. *entry: as at_entry, of the innermost. *by_table: how it was found. */
static bool outwards(struct stack_window *w, struct frame *f, bool *entry, bool *by_table)
{
	struct shim_unwind_rule rule;
	bool first = *entry;

	*entry = false;
	*by_table = unwind_rule(f->ip - f->call, &rule);
	if (*by_table)
		return unwind_step(w, f, &rule);
	if (first && stack_word(w, f->sp, &f->ip)) {
		f->sp += 8;
		f->call = true;
		return true;
	}
	return by_frame_pointer(w, f);
}

u32 stack_walk(const struct shim_run *run, u64 *out, u32 skip, u32 max)
{
	const struct shim_pt_regs *regs = (const struct shim_pt_regs *)run->regs;
	u64 limit = (u64)skip + max < STACK_MAX ? skip + max : STACK_MAX;
	struct stack_window w = { .size = 0 };
	struct frame f;
	u64 n = 0, way_in = 0; /* frames, as far as where tables took over from frame pointers; or 0 */
	bool entry, by_table = false;

	if (!regs)
		return 0;
	f = (struct frame){ regs->ip, regs->sp, regs->bp, false };
	entry = at_entry(run);
	while (n < limit || (way_in && n - way_in <= WAY_IN)) {
		bool before = by_table;

		f.ip = original(f.ip);
		if (n >= skip && n < limit)
			out[n - skip] = f.ip;
		n++;
		if (!outwards(&w, &f, &entry, &by_table)) {
			if (way_in && n - way_in <= WAY_IN)
				n = way_in;
			break;
		}
		if (!by_table)
			way_in = 0;
		else if (!before && n > 1)
			way_in = n;
	}
	return (u32)(n < limit ? n : limit);
}

/* Where the module is not known, or has none, the address, as by the kernel. */
void stack_build_id(struct bpf_stack_build_id *out, u64 ip)
{
	u8 id[BPF_BUILD_ID_SIZE];
	u64 offset;

	memset(out, 0, sizeof(*out));
	if (unwind_build_id(ip, id, &offset)) {
		out->status = BPF_STACK_BUILD_ID_VALID;
		memcpy(out->build_id, id, sizeof(id));
		out->offset = offset;
		return;
	}
	out->status = BPF_STACK_BUILD_ID_IP;
	out->ip = ip;
}
