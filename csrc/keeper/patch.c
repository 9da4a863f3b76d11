/*
 * Windows of a stopped process, all or none. Order: everything is checked, then instruction
 * pointers leave the windows for the copies (which are equivalent), then each page of windows changes
 * with one write, in the order of the windows. So the process is whole after every step.
 */
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "keeper.h"

static int check_window(struct kp_target *t, const struct shim_kp_window *w)
{
	u8 now[SHIM_WINDOW_MAX];
	int err;

	if (!w->len || w->len > SHIM_WINDOW_MAX || w->nfixups > SHIM_KEEPER_MAX_FIXUPS)
		return -EINVAL;
	err = kp_pages_read(t, w->addr, now, w->len);
	if (err)
		return err;
	return memcmp(now, w->expect, w->len) ? -ESTALE : 0;
}

/* Where a thread at 'ip' goes on; 0: it stays; -EAGAIN: inside a window, at no boundary. */
static int fixup(u64 ip, const struct shim_kp_window *win, u32 n, u64 *to)
{
	u32 i, k;

	*to = 0;
	for (i = 0; i < n; i++) {
		if (ip <= win[i].addr || ip >= win[i].addr + win[i].len)
			continue;
		for (k = 0; k < win[i].nfixups; k++)
			if (win[i].fixups[k].from == ip)
				*to = win[i].fixups[k].to;
		return *to ? 0 : -EAGAIN;
	}
	return 0;
}

static int check_pointers(struct kp_target *t, const struct shim_kp_window *win, u32 n)
{
	u64 to;
	int i, err = 0;

	for (i = 0; i < t->nthreads && !err; i++) {
		const struct kp_thread *th = &t->threads[i];

		if (th->state != KP_STOPPED)
			continue;
		err = fixup(th->regs.rip, win, n, &to);
		/* A system call inside a window would be restarted where the jump stands. */
		if (!err && to && (s64)th->regs.orig_rax >= 0 && !th->in_service)
			err = -EAGAIN;
	}
	return err;
}

static int move_pointers(struct kp_target *t, const struct shim_kp_window *win, u32 n)
{
	u64 to;
	int i, err = 0;

	/* where the called thread's system call ends: it goes back by itself then */
	if (t->called && (fixup(t->before.rip, win, n, &to) || to))
		t->moved = 1;
	for (i = 0; i < t->nthreads && !err; i++) {
		struct kp_thread *th = &t->threads[i];

		if (th->state != KP_STOPPED)
			continue;
		err = fixup(th->regs.rip, win, n, &to);
		if (err || !to)
			continue;
		th->regs.rip = to;
		if (th->in_service) {
			t->moved = 1;
			err = kp_write(t,
				       t->resume + offsetof(struct shim_service_frame, ip) -
					       offsetof(struct shim_service_frame, r15),
				       &to, sizeof(to));
		} else
			err = kp_set_regs(th, &th->regs);
	}
	return err;
}

/* Of the sites that are going to have that one. */
static int set_flags(struct kp_target *t, const struct shim_kp_window *win, u32 n, int patched)
{
	int err = 0, put;
	u32 i;

	kp_pages_begin();
	for (i = 0; i < n && !err; i++)
		if (win[i].site && !!win[i].patched == patched)
			err = kp_pages_write(t, win[i].site + offsetof(struct shim_site, patched),
					     &win[i].patched, sizeof(win[i].patched));
	put = kp_pages_end(t);
	return err ? err : put;
}

/* What a site is made of other bytes while it stays patched. */
static int set_kinds(struct kp_target *t, const struct shim_kp_window *win, u32 n, int back)
{
	struct shim_site s;
	int err = 0;
	u32 i;

	for (i = 0; i < n && !err; i++) {
		int trap = (win[i].becomes == SHIM_KP_TRAP) != back;

		if (!win[i].becomes)
			continue;
		err = kp_read(t, win[i].site, &s, sizeof(s));
		s.flags &= ~(u32)(SHIM_SITE_TRAP | SHIM_SITE_PUN);
		s.flags |= trap ? SHIM_SITE_TRAP : SHIM_SITE_PUN;
		memcpy(s.patch, back ? win[i].expect : win[i].bytes, win[i].len);
		err = err ? err : kp_write(t, win[i].site, &s, sizeof(s));
	}
	return err;
}

/* 'patched' is set before the windows change and cleared after: a flag with the original
 * bytes in place is harmless, a window that nobody knows of is not. */
static int write_windows(struct kp_target *t, const struct shim_kp_window *win, u32 n)
{
	int err = set_flags(t, win, n, 1), put;
	u32 i;

	err = err ? err : set_kinds(t, win, n, 0);

	kp_pages_begin();
	for (i = 0; i < n && !err; i++)
		err = kp_pages_write(t, win[i].addr, win[i].bytes, win[i].len);
	put = kp_pages_end(t);
	err = err ? err : put;
	return err ? err : set_flags(t, win, n, 0);
}

int kp_patch(struct kp_target *t, const struct shim_kp_window *win, u32 n)
{
	u32 i;
	int err = 0;

	kp_pages_begin();
	for (i = 0; i < n && !err; i++)
		err = check_window(t, &win[i]);
	kp_pages_end(t);
	if (!err)
		err = kp_threads_regs(t);
	if (!err)
		err = kp_scan(t, win, n);
	if (!err)
		err = check_pointers(t, win, n);
	if (!err)
		err = move_pointers(t, win, n);
	if (err)
		return err;
	err = write_windows(t, win, n);
	/* The last to be reached goes first; one that was not written is written as it is. */
	for (i = n; err && i--;)
		kp_write(t, win[i].addr, win[i].expect, win[i].len);
	if (err)
		set_kinds(t, win, n, 1);
	return err ? err : (int)n;
}
