/*
 * Work in a process that has no agent: one stopped thread executes cave.S, written into dead bytes
 * of its executable memory, and makes system calls for us. This process may die at any moment: the
 * thread then undoes what has been done, and goes on where it was.
 */
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include "keeper.h"
#include "remote.h"

enum { STEP_MS = 10000, MARGIN = 64, PAGE = 4096, NO_TRAP_NO_DF = ~0x500 };

#define SIZE ((size_t)(kp_cave_end - kp_cave))
#define DATA ((size_t)(kp_cave_data - kp_cave))
#define TEXT ((size_t)(kp_cave_text - kp_cave))

_Static_assert(sizeof(struct kp_cave_data) == 160 && offsetof(struct kp_cave_data, flags) == 144,
	       "cave.S");

/* Executable pages of a file, or the vdso: the mapping's last page, if it ends in enough zeros. */
static int try_cave(const struct kp_mapping *m, void *arg)
{
	struct kp_remote *r = arg;
	u8 page[PAGE];
	size_t zeros = 0;

	if (m->perms[0] != 'r' || m->perms[2] != 'x' || m->perms[1] == 'w' || !m->path[0])
		return 0;
	if (m->path[0] == '[' && strcmp(m->path, "[vdso]"))
		return 0;
	if (r->cave && strcmp(m->path, "[vdso]"))
		return 0;
	if (kp_read(r->t, m->hi - PAGE, page, PAGE))
		return 0;
	while (zeros < PAGE && !page[PAGE - 1 - zeros])
		zeros++;
	/* what a keeper that died has left is not zero, and is known by its beginning */
	if (zeros < SIZE + MARGIN && memcmp(page + PAGE - SIZE, kp_cave, DATA))
		return 0;
	r->cave = m->hi - SIZE;
	r->used = zeros < SIZE + MARGIN;
	return 0;
}

/* A thread may still be inside what another keeper began: its place, or a signal frame's. */
static int somebody_inside(struct kp_remote *r)
{
	struct shim_kp_window w = { .scan_lo = r->cave, .scan_hi = r->cave + SIZE };
	int i, err = kp_threads_regs(r->t);

	for (i = 0; i < r->t->nthreads && !err; i++) {
		const struct kp_thread *th = &r->t->threads[i];

		if (th->state == KP_STOPPED && th->regs.rip - r->cave < SIZE)
			err = -EAGAIN;
	}
	return err ? err : kp_scan(r->t, &w, 1);
}

/* Inside a restartable sequence of its own, a thread must not be led astray. */
static int in_rseq(struct kp_target *t, const struct kp_thread *th)
{
	struct __ptrace_rseq_configuration conf = { 0 };
	u64 word = 0;

	if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, th->tid, sizeof(conf), &conf) < 0)
		return 0; /* a kernel without */
	if (!conf.rseq_abi_pointer)
		return 0;
	return kp_read(t, conf.rseq_abi_pointer + 8, &word, sizeof(word)) || word;
}

/* -EAGAIN: none at the moment; -EOPNOTSUPP: 32-bit code. */
static int choose(struct kp_remote *r)
{
	int i, err;

	for (i = 0; i < r->t->nthreads; i++) {
		struct kp_thread *th = &r->t->threads[i];

		if (th->state != KP_STOPPED || th->sig)
			continue;
		err = kp_get_regs(th, &r->before);
		if (err)
			return err;
		if (r->before.cs != 0x33)
			return -EOPNOTSUPP;
		if (in_rseq(r->t, th))
			continue;
		r->th = th;
		return 0;
	}
	return -EAGAIN;
}

static void fill(struct kp_cave_data *d, const struct user_regs_struct *r)
{
	d->r15 = r->r15, d->r14 = r->r14, d->r13 = r->r13, d->r12 = r->r12;
	d->bp = r->rbp, d->bx = r->rbx, d->r11 = r->r11, d->r10 = r->r10;
	d->r9 = r->r9, d->r8 = r->r8, d->ax = r->rax, d->cx = r->rcx;
	d->dx = r->rdx, d->si = r->rsi, d->di = r->rdi;
	d->ip = r->rip, d->flags = r->eflags, d->sp = r->rsp;
}

static int write_cave(struct kp_remote *r)
{
	struct user_regs_struct resume = r->before;
	struct kp_cave_data data = { 0 };
	u8 bytes[1024] = { 0 };

	if (SIZE > sizeof(bytes))
		return -E2BIG;
	if (ptrace(PTRACE_GETSIGMASK, r->th->tid, sizeof(r->mask), &r->mask))
		return -errno;
	kp_restart_syscall(&resume);
	fill(&data, &resume);
	data.mask = r->mask;
	memcpy(bytes, kp_cave, SIZE);
	memcpy(bytes + DATA, &data, sizeof(data));
	return kp_write(r->t, r->cave, bytes, SIZE);
}

static int clear_cave(struct kp_remote *r)
{
	u8 zeros[1024] = { 0 };

	return kp_write(r->t, r->cave, zeros, SIZE);
}

/* From where it stands to the marker's exit. -EAGAIN: a signal came first, which is possible only
 * before the first call has blocked them. */
static int run_to_marker(struct kp_remote *r)
{
	long deadline = kp_now_ms() + STEP_MS;
	int err, sig = 0;

	for (;;) {
		err = kp_resume(r->th, PTRACE_SYSCALL, sig);
		while (!err && r->th->state == KP_RUNNING) {
			if (kp_now_ms() >= deadline)
				return -ETIMEDOUT;
			kp_wait(r->t, deadline);
		}
		if (err || r->th->state == KP_GONE)
			return -ESRCH;
		sig = r->th->sig;
		if (sig && sig != SIGSTOP)
			return -EAGAIN; /* goes on when the thread is let go */
		r->th->sig = 0;
		if (r->th->event != (SIGTRAP | 0x80))
			continue;
		err = kp_get_regs(r->th, &r->now);
		if (err)
			return err;
		if (r->now.orig_rax != SYS_membarrier || r->now.rdi != SHIM_SERVICE_DONE)
			continue;
		err = kp_behind_marker(r->th);
		if (err)
			return err < 0 ? err : 0;
	}
}

static long step(struct kp_remote *r)
{
	int err = kp_set_regs(r->th, &r->now);

	if (!err)
		err = run_to_marker(r);
	return err ? err : (long)r->now.rbx;
}

long kp_remote(struct kp_remote *r, long nr, const u64 *args, enum kp_remote_keep keep)
{
	r->now.orig_rax = -1;
	r->now.rip = r->cave;
	r->now.rax = nr;
	r->now.rdi = args[0], r->now.rsi = args[1], r->now.rdx = args[2];
	r->now.r10 = args[3], r->now.r8 = args[4], r->now.r9 = args[5];
	r->now.r13 = keep;
	return step(r);
}

long kp_remote_function(struct kp_remote *r, u64 entry, u64 a, u64 b, u64 c)
{
	r->now.orig_rax = -1;
	r->now.rip = entry;
	r->now.rdi = a, r->now.rsi = b, r->now.rdx = c;
	r->now.r13 = r->cave + (size_t)(kp_cave_back - kp_cave);
	return step(r);
}

u64 kp_remote_text(struct kp_remote *r, const char *text)
{
	size_t len = strlen(text) + 1;

	if (len > SIZE - TEXT || kp_write(r->t, r->cave + TEXT, text, len))
		return 0;
	return r->cave + TEXT;
}

/* One thread into the cave, its signals blocked. -EAGAIN: it has one to take first, at the place
 * where it was, once it is let go. */
static int enter_cave(struct kp_remote *r)
{
	const u64 all = 2; /* SIG_SETMASK */
	int err = choose(r);

	if (!err)
		err = write_cave(r);
	if (err)
		return err;
	r->now = r->before;
	r->now.eflags &= NO_TRAP_NO_DF;
	r->now.r12 = r->now.rbp = 0;
	r->now.r14 = (u64)-1;
	r->begun = 1;
	return (int)kp_remote(r, SYS_rt_sigprocmask,
			      (u64[6]){ all, r->cave + (size_t)(kp_cave_all - kp_cave), 0, 8, 0, 0 },
			      0);
}

int kp_remote_begin(struct kp_remote *r, struct kp_target *t)
{
	int i, err;

	memset(r, 0, sizeof(*r));
	r->t = t;
	err = kp_maps(t->proc, try_cave, r);
	if (err)
		return err;
	if (!r->cave)
		return -ENOSPC;
	if (r->used)
		err = somebody_inside(r);
	if (!err)
		err = enter_cave(r);
	for (i = 0; i < t->nthreads && err == -EAGAIN && r->begun; i++) {
		kp_remote_end(r);
		r->begun = 0;
		err = enter_cave(r); /* another one */
	}
	return err;
}

void kp_remote_end(struct kp_remote *r)
{
	if (!r->begun)
		return;
	if (r->th->state == KP_RUNNING)
		kp_wait(r->t, kp_now_ms() + STEP_MS);
	if (r->th->state != KP_STOPPED)
		return; /* it comes to the end by itself, in the cave */
	/* If we die between the two, the way back in the cave blocks signals again first. */
	kp_step();
	ptrace(PTRACE_SETSIGMASK, r->th->tid, sizeof(r->mask), &r->mask);
	if (!kp_set_regs(r->th, &r->before))
		clear_cave(r);
}
