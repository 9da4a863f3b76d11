/*
 * Is an address inside a window still going to be used? It may stand in a register or in a signal
 * frame; then the window must wait. No other word of a stack leads there: a call ends a window, and
 * what our own trampolines have pushed lies about on stacks long after (struct shim_pt_regs.ip). But
 * the runtime of Go pushes the address at which it preempts a goroutine: there any word counts.
 */
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "keeper.h"

#define CS_GS_FS_SS 0x002b000000000033ULL /* of 64-bit code, in a signal frame */

enum { FLAGS_SET = 2, FLAGS_MAX = 1 << 22 };

enum { GO_G_M = 48 }; /* runtime.g.m, in all releases since 1.5 */

/* r15 ... ss of the frame */
enum {
	RESUME_LEN = offsetof(struct shim_service_frame, sigmask) -
		     offsetof(struct shim_service_frame, r15)
};

struct range {
	u64 lo, hi;
};

static struct range writable[KP_MAX_RANGES];
static int nwritable;
static u64 chunk[8192 + 2];

int kp_threads_regs(struct kp_target *t)
{
	struct shim_service_frame f;
	int i, err;

	for (i = 0; i < t->nthreads; i++) {
		struct kp_thread *th = &t->threads[i];
		struct user_regs_struct *r = &th->regs;

		if (th->state == KP_RUNNING)
			return -EBUSY; /* a call that has not ended */
		if (th->state != KP_STOPPED)
			continue;
		err = kp_get_regs(th, r);
		if (err)
			return err;
		if (!th->in_service)
			continue;
		err = kp_read(t, t->resume, &f.r15, RESUME_LEN);
		if (err)
			return err;
		r->r15 = f.r15, r->r14 = f.r14, r->r13 = f.r13, r->r12 = f.r12;
		r->rbp = f.bp, r->rbx = f.bx, r->r11 = f.r11, r->r10 = f.r10;
		r->r9 = f.r9, r->r8 = f.r8, r->rax = f.ax, r->rcx = f.cx;
		r->rdx = f.dx, r->rsi = f.si, r->rdi = f.di;
		r->rip = f.ip, r->rsp = f.sp; /* fs_base is the thread's own */
	}
	return 0;
}

static int add_writable(const struct kp_mapping *m, void *arg)
{
	(void)arg;
	if (m->perms[1] == 'w' && nwritable < KP_MAX_RANGES)
		writable[nwritable++] = (struct range){ m->lo, m->hi };
	return 0;
}

/* struct sigcontext has the instruction pointer, the flags, then the segments in one word. */
int kp_signal_frame(const u64 *word, size_t n)
{
	return n > 2 && word[2] == CS_GS_FS_SS && word[1] & FLAGS_SET && word[1] < FLAGS_MAX;
}

/* The end of the stack of the g at this address, if 'sp' is in it: a g begins with its bounds. */
static u64 end_of_g(struct kp_target *t, u64 g, u64 sp)
{
	u64 bounds[2];

	if (g && !kp_read(t, g, bounds, sizeof(bounds)) && sp >= bounds[0] && sp < bounds[1] &&
	    bounds[1] - sp < KP_STACK_SCAN)
		return bounds[1];
	return 0;
}

/* A thread of Go has the address of its g before its control block. It may be on the stack of its
 * own first g, in a call of the vdso. 0: no Go, or none of the two. */
static u64 end_of_go(struct kp_target *t, const struct user_regs_struct *r)
{
	u64 g, m, end;

	if (kp_read(t, r->fs_base - 8, &g, 8))
		return 0;
	end = end_of_g(t, g, r->rsp);
	if (!end && g && !kp_read(t, g + GO_G_M, &m, 8) && m && !kp_read(t, m, &g, 8))
		end = end_of_g(t, g, r->rsp);
	return end;
}

/* libc puts a thread's control block at the upper end of its stack. Go puts it anywhere: between lie
 * others' stacks, and those of signals with what those have left there. */
u64 kp_stack_end(struct kp_target *t, const struct user_regs_struct *r)
{
	u64 end = end_of_go(t, r);

	if (!end && r->fs_base > r->rsp && r->fs_base - r->rsp < KP_STACK_SCAN)
		end = r->fs_base;
	return end ? end : r->rsp + KP_STACK_SCAN;
}

struct range_of {
	u64 lo, hi;
	const struct shim_kp_window *win;
	u32 n;
};

static int points_inside(u64 word, const struct shim_kp_window *win, u32 n)
{
	u32 i;

	for (i = 0; i < n; i++)
		if (word >= win[i].scan_lo && word < win[i].scan_hi)
			return 1;
	return 0;
}

/* The first 'count' words of the chunk, which has n. */
static int scan_words(const struct range_of *in, size_t count, size_t n, int any)
{
	size_t w;

	for (w = 0; w < count; w++)
		if (chunk[w] >= in->lo && chunk[w] < in->hi &&
		    points_inside(chunk[w], in->win, in->n) &&
		    (any || kp_signal_frame(chunk + w, n - w)))
			return -EAGAIN;
	return 0;
}

static int scan_regs(const struct user_regs_struct *r, const struct shim_kp_window *win, u32 n)
{
	const u64 words[] = { r->rax, r->rbx, r->rcx, r->rdx, r->rsi, r->rdi, r->rbp, r->r8,
			      r->r9,  r->r10, r->r11, r->r12, r->r13, r->r14, r->r15 };
	size_t i;

	for (i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (points_inside(words[i], win, n))
			return -EAGAIN;
	return 0;
}

/* Words from the red zone to the end of the stack, or of the mapping that the stack pointer is in. */
static int scan_stack(struct kp_target *t, const struct user_regs_struct *r, const struct range_of *in)
{
	u64 sp = r->rsp, at = (sp & ~7ULL) - 128, end = 0;
	int i, err = 0, any = end_of_go(t, r) != 0;

	for (i = 0; i < nwritable; i++) {
		if (sp < writable[i].lo || sp >= writable[i].hi)
			continue;
		end = writable[i].hi;
		if (at < writable[i].lo)
			at = writable[i].lo;
	}
	if (!end)
		return 0; /* no stack: nothing can be pushed there */
	if (end > kp_stack_end(t, r))
		end = kp_stack_end(t, r);
	for (; at < end && !err; at += sizeof(chunk) - 16) {
		size_t len = end - at < sizeof(chunk) ? end - at : sizeof(chunk);

		err = kp_read(t, at, chunk, len);
		if (!err) /* the last two words are looked at again with the next ones */
			err = scan_words(in, len == sizeof(chunk) ? len / 8 - 2 : len / 8, len / 8,
					 any);
	}
	return err;
}

int kp_scan(struct kp_target *t, const struct shim_kp_window *win, u32 n)
{
	struct range_of in = { .lo = ~0ULL, .win = win, .n = n };
	u32 w;
	int i, err;

	for (w = 0; w < n; w++) {
		if (win[w].scan_lo >= win[w].scan_hi)
			continue;
		in.lo = win[w].scan_lo < in.lo ? win[w].scan_lo : in.lo;
		in.hi = win[w].scan_hi > in.hi ? win[w].scan_hi : in.hi;
	}
	if (!in.hi)
		return 0;
	nwritable = 0;
	err = kp_maps(t->proc, add_writable, NULL);
	for (i = 0; i < t->nthreads && !err; i++) {
		struct kp_thread *th = &t->threads[i];

		if (th->state != KP_STOPPED)
			continue;
		err = scan_regs(&th->regs, win, n);
		if (!err)
			err = scan_stack(t, &th->regs, &in);
	}
	return err;
}
