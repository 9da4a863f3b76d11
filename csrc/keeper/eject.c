/*
 * The agent out of a process again: the agent itself says that nothing needs it and takes its
 * return slots off the stacks; every thread is looked at; the agent gives back what it has mapped;
 * a thread of the process unmaps the image. If this process dies meanwhile, what has been begun is
 * ended without it.
 */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <time.h>

#include "image.h"
#include "shim_wire.h"

enum { CHUNK = 16384, CALL_MS = 2000 };

static struct shim_agent root;

struct vdso {
	u64 lo, hi;
};

static int find_vdso(const struct kp_mapping *m, void *arg)
{
	struct vdso *v = arg;

	if (!strcmp(m->path, "[vdso]"))
		v->lo = m->lo, v->hi = m->hi;
	return 0;
}

/* The image, and what of 'owned' can hold code. */
static struct {
	u64 at, len;
} ranges[SHIM_MAX_OWNED + 1];
static u32 nranges;

static void note_ranges(void)
{
	u32 i;

	ranges[0].at = root.image;
	ranges[0].len = root.image_size;
	nranges = 1;
	for (i = 0; i < SHIM_MAX_OWNED; i++) {
		if (!root.owned[i].len || root.owned[i].session == SHIM_NO_SESSION)
			continue;
		ranges[nranges].at = root.owned[i].addr;
		ranges[nranges++].len = root.owned[i].len;
	}
}

static int ours(u64 at)
{
	u32 i;

	for (i = 0; i < nranges; i++)
		if (at - ranges[i].at < ranges[i].len)
			return 1;
	return 0;
}

struct look {
	const struct vdso *vdso;
	int pointer; /* some word is an address in the image: to be believed only in a call of the vdso */
	int in_vdso;
	int inside; /* a signal frame will come back to us */
};

static void look_at(struct look *l, const u64 *word, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++) {
		int frame = kp_signal_frame(word + i, n - i);

		l->pointer |= word[i] - root.image < root.image_size;
		l->inside |= frame && ours(word[i]);
		l->in_vdso |= frame && word[i] - l->vdso->lo < l->vdso->hi - l->vdso->lo;
	}
}

static void look_at_stack(struct kp_target *t, const struct user_regs_struct *regs, struct look *l)
{
	static u64 chunk[CHUNK / 8 + 2];
	u64 at = regs->rsp & ~7ULL, end = kp_stack_end(t, regs);

	for (; at < end; at += CHUNK) {
		size_t len = end - at < CHUNK ? end - at : CHUNK + 16;

		/* the last words are looked at again with the next part */
		while (len && kp_read(t, at, chunk, len))
			len -= len > 512 ? 512 : len;
		look_at(l, chunk, len / 8);
		if (len < CHUNK)
			break; /* the end of the mapping */
	}
}

/* -EAGAIN: a thread is inside the agent, a trampoline or a program, or will be when a signal handler
 * returns. The agent calls nothing but itself and the vdso. */
static int anybody_inside(struct kp_target *t)
{
	struct vdso vdso = { 0, 0 };
	int i, err = kp_maps(t->proc, find_vdso, &vdso);

	if (!err)
		err = kp_threads_regs(t);
	for (i = 0; i < t->nthreads && !err; i++) {
		const struct kp_thread *th = &t->threads[i];
		struct look l = { .vdso = &vdso };

		if (th->state != KP_STOPPED)
			continue;
		if (ours(th->regs.rip))
			return -EAGAIN;
		l.in_vdso = th->regs.rip - vdso.lo < vdso.hi - vdso.lo;
		look_at_stack(t, &th->regs, &l);
		if (l.inside || (l.in_vdso && l.pointer))
			return -EAGAIN;
	}
	return err;
}

static int unmap_image(struct kp_target *t)
{
	struct kp_remote r;
	int err = kp_remote_begin(&r, t);

	if (!err) {
		r.now.rbp = root.image;
		r.now.r12 = root.image_size;
		kp_image_unmap(&r);
	}
	kp_remote_end(&r);
	return err;
}

/* The agent's own word on it. It ends what it has begun if this process dies. */
static int ask(struct kp_target *t, const struct shim_kp_eject *req, u32 reason)
{
	struct shim_kp_call call = { .root = req->root, .reason = reason, .timeout_ms = CALL_MS };
	int err = kp_call(t, &call);

	return err ? err : kp_uncall(t);
}

static int eject_stopped(struct kp_target *t, const struct shim_kp_eject *req)
{
	u32 kept = 0;
	int i, err = kp_read(t, req->root + offsetof(struct shim_agent, kept), &kept, sizeof(kept));

	if (!err && kept && !req->kept)
		return -EEXIST;
	for (i = 0; i < t->nthreads && !err; i++)
		if (t->threads[i].state == KP_STOPPED && kp_caused(t, &t->threads[i]))
			err = -EAGAIN; /* perhaps an int3 of ours that has gone: it needs our handler */
	if (!err)
		err = ask(t, req, SHIM_SYNC_EJECT);
	if (!err)
		err = kp_read(t, req->root, &root, sizeof(root));
	if (!err && (root.magic != SHIM_AGENT_MAGIC || !root.image))
		err = -EPROTO;
	note_ranges();
	if (!err)
		err = anybody_inside(t);
	if (!err)
		err = ask(t, req, SHIM_SYNC_EMPTY);
	return err ? err : unmap_image(t);
}

int kp_eject(struct kp_target *t, pid_t pid, const struct shim_kp_eject *req)
{
	long deadline = kp_now_ms() + (req->timeout_ms > 60000 ? 60000 : req->timeout_ms);
	struct timespec pause = { 0, 500000 };
	int ret;

	if (t->pid)
		return -EBUSY;
	for (;;) {
		ret = kp_stop(t, pid);
		if (ret >= 0) {
			ret = eject_stopped(t, req);
			kp_release(t);
		}
		if ((ret != -EBUSY && ret != -EAGAIN) || kp_now_ms() >= deadline)
			return ret;
		nanosleep(&pause, NULL); /* lets a run or a signal handler end */
		pause.tv_nsec = pause.tv_nsec < 20000000 ? pause.tv_nsec * 2 : pause.tv_nsec;
	}
}
