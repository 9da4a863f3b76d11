/*
 * Is an address inside a window still going to be used? It may stand in a register, in a
 * signal frame, or as any other word of a stack; then the window must wait.
 */
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "keeper.h"

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
static char chunk[65536];

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

static int points_inside(u64 word, const struct shim_kp_window *win, u32 n)
{
	u32 i;

	for (i = 0; i < n; i++)
		if (word >= win[i].scan_lo && word < win[i].scan_hi)
			return 1;
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

/*
 * libc puts a thread's control block at the upper end of its stack. A thread of Go has the address
 * of its g before its control block, and a g begins with the bounds of the stack in use: beside it lie
 * others', with what signals have left there.
 */
u64 kp_stack_end(struct kp_target *t, const struct user_regs_struct *r)
{
	u64 g, bounds[2];

	if (r->fs_base > r->rsp && r->fs_base - r->rsp < KP_STACK_SCAN)
		return r->fs_base;
	if (!kp_read(t, r->fs_base - 8, &g, 8) && g && !kp_read(t, g, bounds, sizeof(bounds)) &&
	    r->rsp >= bounds[0] && r->rsp < bounds[1] && bounds[1] - r->rsp < KP_STACK_SCAN)
		return bounds[1];
	return r->rsp + KP_STACK_SCAN;
}

/* Words from the red zone to the end of the stack, or of the mapping that the stack pointer is in. */
static int scan_stack(struct kp_target *t, const struct user_regs_struct *r, u64 lo, u64 hi,
		      const struct shim_kp_window *win, u32 n)
{
	u64 sp = r->rsp, at = (sp & ~7ULL) - 128, end = 0;
	int i, err;

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
	while (at < end) {
		size_t len = end - at < sizeof(chunk) ? end - at : sizeof(chunk);
		size_t w;
		u64 word;

		err = kp_read(t, at, chunk, len);
		if (err)
			return err;
		for (w = 0; w + 8 <= len; w += 8) {
			memcpy(&word, chunk + w, 8);
			if (word >= lo && word < hi && points_inside(word, win, n))
				return -EAGAIN;
		}
		at += len;
	}
	return 0;
}

int kp_scan(struct kp_target *t, const struct shim_kp_window *win, u32 n)
{
	u64 lo = ~0ULL, hi = 0;
	u32 w;
	int i, err;

	for (w = 0; w < n; w++) {
		if (win[w].scan_lo >= win[w].scan_hi)
			continue;
		lo = win[w].scan_lo < lo ? win[w].scan_lo : lo;
		hi = win[w].scan_hi > hi ? win[w].scan_hi : hi;
	}
	if (!hi)
		return 0;
	nwritable = 0;
	err = kp_maps(t->proc, add_writable, NULL);
	for (i = 0; i < t->nthreads && !err; i++) {
		struct kp_thread *th = &t->threads[i];

		if (th->state != KP_STOPPED)
			continue;
		err = scan_regs(&th->regs, win, n);
		if (!err)
			err = scan_stack(t, &th->regs, lo, hi, win, n);
	}
	return err;
}
