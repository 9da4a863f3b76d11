/*
 * Stacks by frame pointers: where rbp leads, a pair of (outer rbp, return address) a frame. What
 * cannot be read ends the walk. Source: arch/x86/events/core.c, perf_callchain_user().
 */
#include "runtime.h"

enum { PUSH_RBP = 0x55, WINDOW = 32 /* words read at once */, CHAIN = 64 };
enum { ENDBR64 = 0xfa1e0ff3 };

static u64 slots_at, slots_size;

void shim_stack_init(u64 slots, u64 size)
{
	slots_at = slots;
	slots_size = size;
}

/* The return address that a return probe has taken the place of; a chain of them, if tail calls are
 * probed. */
static u64 original(u64 addr)
{
	for (u32 i = 0; i < CHAIN && addr - slots_at < slots_size; i++)
		addr = *(const u64 *)((addr & ~7ull) + slots_size);
	return addr;
}

/* A part of the stack: copied once, since neighbouring frames lie close together. */
struct window {
	u64 at, size;
	u64 word[WINDOW];
};

/* Two words at `from`. */
static bool read_frame(struct window *w, u64 from, u64 *outer, u64 *back)
{
	u64 to_page = SHIM_PAGE - from % SHIM_PAGE;

	if (from % 8 || from - w->at >= w->size || w->size - (from - w->at) < 16) {
		w->at = from;
		w->size = to_page < sizeof(w->word) ? to_page : sizeof(w->word);
		if (w->size < 16 || from % 8)
			w->size = 16;
		if (shim_copy_from(w->word, from, w->size)) {
			w->size = 0;
			return false;
		}
	}
	*outer = w->word[(from - w->at) / 8];
	*back = w->word[(from - w->at) / 8 + 1];
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

u32 stack_walk(const struct shim_run *run, u64 *out, u32 skip, u32 max)
{
	const struct shim_pt_regs *regs = (const struct shim_pt_regs *)run->regs;
	struct window w = { .size = 0 };
	u64 limit = (u64)skip + max < STACK_MAX ? skip + max : STACK_MAX, ip, fp;
	bool entry;
	u32 n = 0;

	if (!regs)
		return 0;
	ip = regs->ip;
	fp = regs->bp;
	entry = at_entry(run);
	while (n < limit) {
		if (n >= skip)
			out[n - skip] = original(ip);
		n++;
		if (entry && !shim_copy_from(&ip, regs->sp, sizeof(ip)))
			entry = false;
		else if (!read_frame(&w, fp, &fp, &ip))
			break;
	}
	return n;
}

/* What the kernel says, too, where a file cannot be looked into at the moment. */
void stack_build_id(struct bpf_stack_build_id *out, u64 ip)
{
	memset(out, 0, sizeof(*out));
	out->status = BPF_STACK_BUILD_ID_IP;
	out->ip = ip;
}
