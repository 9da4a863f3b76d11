/*
 * The self-restoring call: one thread is pointed at the agent's service entry, which puts
 * back everything that was interrupted, by itself, also when this process dies meanwhile.
 *
 * After it the thread stands at the marker system call, its interrupted state lies where its
 * stack pointer shows (struct shim_service_frame, from r15 on), and the other threads have not moved: windows may be written now.
 */
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "keeper.h"

enum { LOCK_WANTED_MS = 200 };

/* Results of an interrupted system call that the kernel would restart (linux/errno.h). */
enum { ERESTARTSYS = 512, ERESTARTNOINTR = 513, ERESTARTNOHAND = 514, ERESTART_BLOCK = 516 };

/* Registers as the kernel would resume the thread with (arch_do_signal_or_restart). */
void kp_restart_syscall(struct user_regs_struct *regs)
{
	if ((s64)regs->orig_rax < 0)
		return;
	switch (-(s64)regs->rax) {
	case ERESTARTSYS:
	case ERESTARTNOINTR:
	case ERESTARTNOHAND:
		regs->rax = regs->orig_rax;
		regs->rip -= 2;
		break;
	case ERESTART_BLOCK:
		regs->rax = SYS_restart_syscall;
		regs->rip -= 2;
		break;
	}
}

static void fill_frame(struct shim_service_frame *f, const struct user_regs_struct *r)
{
	f->r15 = r->r15, f->r14 = r->r14, f->r13 = r->r13, f->r12 = r->r12;
	f->bp = r->rbp, f->bx = r->rbx, f->r11 = r->r11, f->r10 = r->r10;
	f->r9 = r->r9, f->r8 = r->r8, f->ax = r->rax, f->cx = r->rcx;
	f->dx = r->rdx, f->si = r->rsi, f->di = r->rdi;
	f->ip = r->rip, f->cs = r->cs, f->flags = r->eflags, f->sp = r->rsp, f->ss = r->ss;
}

/* A signal that an instruction of the thread's has caused is on its way: it belongs to where the
 * thread stands. */
int kp_caused(const struct kp_target *t, const struct kp_thread *th)
{
	const u64 faults = 1ULL << (SIGILL - 1) | 1ULL << (SIGTRAP - 1) | 1ULL << (SIGBUS - 1) |
			   1ULL << (SIGFPE - 1) | 1ULL << (SIGSEGV - 1) | 1ULL << (SIGSYS - 1);
	char path[64], buf[4096], *at;
	ssize_t n;
	int fd;

	if (th->sig && faults >> (th->sig - 1) & 1)
		return 1;
	snprintf(path, sizeof(path), "task/%d/status", th->tid);
	fd = openat(t->proc, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	n = read(fd, buf, sizeof(buf) - 1);
	close(fd);
	buf[n > 0 ? n : 0] = 0;
	at = strstr(buf, "SigPnd:");
	return at && strtoull(at + 7, NULL, 16) & faults;
}

int kp_in_service(const struct user_regs_struct *regs, u64 frame)
{
	return regs->rsp > frame - KP_SERVICE_STACK &&
	       regs->rsp < frame + sizeof(struct shim_service_frame);
}

/*
 * The thread to call: no signal in delivery, its registers in *regs. -EBUSY if any thread is
 * inside the service already, -EAGAIN if there is none, -EACCES if a seccomp filter minds; 'busy' of the frame says nothing, its keeper may have died.
 */
static int choose(struct kp_target *t, u64 frame, int injected, struct user_regs_struct *regs,
		  struct kp_thread **chosen)
{
	struct user_regs_struct r;
	int i, err, fenced = 0;

	*chosen = NULL;
	for (i = 0; i < t->nthreads; i++) {
		struct kp_thread *th = &t->threads[i];

		if (th->state != KP_STOPPED)
			continue;
		err = kp_get_regs(th, &r);
		if (err)
			return err;
		if (kp_in_service(&r, frame))
			return -EBUSY;
		if (r.cs != 0x33)
			return -EOPNOTSUPP; /* 32-bit code */
		if (*chosen || th->sig || kp_caused(t, th))
			continue;
		if (!kp_may_call(t, th->tid, injected)) {
			fenced = 1;
			continue;
		}
		*chosen = th;
		*regs = r;
	}
	if (*chosen)
		return 0;
	return fenced ? -EACCES : -EAGAIN; /* all others are about to take a signal */
}

/* At the marker the thread's stack pointer is the address of what it will resume with. */
int kp_at_marker(struct kp_target *t, struct kp_thread *th)
{
	struct user_regs_struct r;

	if (kp_get_regs(th, &r) || r.orig_rax != SYS_membarrier || r.rdi != SHIM_SERVICE_DONE)
		return 0;
	t->resume = r.rsp;
	th->in_service = 1;
	return 1;
}

int kp_behind_marker(struct kp_thread *th)
{
	struct __ptrace_syscall_info info;
	struct user_regs_struct regs;
	int err;

	if (ptrace(PTRACE_GET_SYSCALL_INFO, th->tid, sizeof(info), &info) >= 0)
		return info.op == PTRACE_SYSCALL_INFO_EXIT;
	if (errno != EIO)
		return -errno;
	err = kp_get_regs(th, &regs); /* gVisor: the call's answer is -EINVAL */
	return err ? err : (long)regs.rax != -ENOSYS;
}

/* A signal that the thread's own instructions caused. */
int kp_synchronous(const struct kp_thread *th)
{
	siginfo_t info;

	if (th->sig != SIGSEGV && th->sig != SIGBUS && th->sig != SIGILL && th->sig != SIGFPE &&
	    th->sig != SIGTRAP && th->sig != SIGSYS)
		return 0;
	return !ptrace(PTRACE_GETSIGINFO, th->tid, 0, &info) && info.si_code > 0;
}

/*
 * Runs the thread from system call to system call until it is there. -EAGAIN: a signal came
 * before the service had blocked it, nothing has been done yet: the caller takes the call back.
 */
int kp_run(struct kp_target *t, struct kp_thread *th, long deadline, kp_until *until)
{
	int err, sig = th->sig;

	for (;;) {
		err = kp_resume(th, PTRACE_SYSCALL, sig);
		while (!err && th->state == KP_RUNNING) {
			if (kp_now_ms() >= deadline)
				return -ETIMEDOUT;
			kp_wait(t, deadline);
		}
		if (err || th->state == KP_GONE)
			return -ESRCH;
		sig = th->sig;
		if (sig && sig != SIGSTOP && !kp_synchronous(th))
			return -EAGAIN;
		th->sig = 0;
		err = th->event == (SIGTRAP | 0x80) ? until(t, th) : 0;
		if (err)
			return err;
	}
}

/* A holder of the lock that stands still; another one may be dead, as the agent finds out. */
static int stands(const struct kp_target *t, u32 holder)
{
	for (int i = 0; i < t->nthreads; i++)
		if (t->threads[i].state == KP_STOPPED && kp_own_number(t, t->threads[i].tid) == holder)
			return 1;
	return 0;
}

int kp_want_lock(struct kp_target *t, u64 root)
{
	u32 until = (u32)(kp_now_ms() + LOCK_WANTED_MS) | 1; /* 0: none */

	kp_write(t, root + offsetof(struct shim_agent, wanted), &until, sizeof(until));
	return -EBUSY;
}

static int root_frame(struct kp_target *t, u64 root, u64 *entry, u64 *frame, int *injected)
{
	struct shim_agent a;
	int err = kp_read(t, root, &a, offsetof(struct shim_agent, nr_sites));

	if (!err)
		err = kp_read(t, root + offsetof(struct shim_agent, image), &a.image, sizeof(a.image));
	if (err)
		return err;
	if (a.magic != SHIM_AGENT_MAGIC || a.version != SHIM_AGENT_VERSION)
		return -EPROTO;
	if (a.muted)
		return -EACCES;
	if (a.lock && stands(t, a.lock))
		return kp_want_lock(t, root); /* the caller lets go and tries again */
	if (!a.service_entry || !a.service_frame)
		return -ENOENT;
	*entry = a.service_entry;
	*frame = a.service_frame;
	*injected = a.image != 0;
	return 0;
}

/* Frame and registers: from the second on the thread does it all, whoever dies. */
static int enter_service(struct kp_target *t, struct kp_thread *th, u64 entry, u64 frame,
			 const struct user_regs_struct *before, const struct shim_kp_call *call)
{
	struct shim_service_frame f = { 0 };
	struct user_regs_struct regs = *before;
	int err;

	kp_restart_syscall(&regs);
	fill_frame(&f, &regs);
	f.busy = 1;
	f.result = -EINPROGRESS;
	f.reason = call->reason;
	memcpy(f.path, call->path, sizeof(f.path));
	f.path[sizeof(f.path) - 1] = 0;
	err = kp_write(t, frame, &f, sizeof(f));
	if (err)
		return err;
	regs.orig_rax = -1;
	regs.rip = entry;
	regs.rsp = frame;
	return kp_set_regs(th, &regs);
}

int kp_point(struct kp_target *t, const struct shim_kp_call *call, kp_until *until)
{
	long deadline = kp_now_ms() + (call->timeout_ms > 60000 ? 60000 : call->timeout_ms);
	struct user_regs_struct before;
	struct kp_thread *th;
	u64 entry, frame;
	int err, injected = 0;

	if (t->called)
		return -EBUSY; /* one call a stop: its thread stands at the marker */
	err = root_frame(t, call->root, &entry, &frame, &injected);
	if (err)
		return err;
	/* A signal may come first: it goes on, at the place where the thread was, when the thread is
	 * let go. Another one is taken then. */
	do {
		err = choose(t, frame, injected || call->careful, &before, &th);
		if (err == -EACCES && call->careful && !injected)
			err = -ENOTCONN;
		if (!err)
			err = enter_service(t, th, entry, frame, &before, call);
		if (err)
			return err;
		t->called = 1;
		t->caller = th;
		t->before = before;
		t->frame = frame;
		err = kp_run(t, th, deadline, until);
		if (err == -EAGAIN) {
			t->called = 0;
			kp_set_regs(th, &before);
		}
	} while (err == -EAGAIN && kp_now_ms() < deadline);
	return err;
}

int kp_result(struct kp_target *t)
{
	s32 result;
	int err = kp_read(t, t->frame + offsetof(struct shim_service_frame, result), &result,
			  sizeof(result));

	return err ? err : result;
}

int kp_call(struct kp_target *t, const struct shim_kp_call *call)
{
	int err = kp_point(t, call, kp_at_marker);

	return err < 0 ? err : kp_result(t);
}

/*
 * The called thread, which stands at the marker, exactly as it was stopped: the kernel itself
 * restarts or ends its system call, as it would have without us.
 */
int kp_uncall(struct kp_target *t)
{
	struct kp_thread *th = t->caller;
	u64 mask;
	int err;

	if (!t->called || !th->in_service)
		return -EINVAL;
	err = kp_read(t,
		      t->resume + offsetof(struct shim_service_frame, sigmask) -
			      offsetof(struct shim_service_frame, r15),
		      &mask, sizeof(mask));
	/* it stands before the marker's call, or behind it */
	while (!err) {
		long deadline = kp_now_ms() + KP_STOP_MS;

		err = kp_behind_marker(th);
		if (err > 0)
			break;
		if (!err)
			err = kp_resume(th, PTRACE_SYSCALL, 0);
		while (!err && th->state == KP_RUNNING && kp_now_ms() < deadline)
			kp_wait(t, deadline);
		if (!err && th->state != KP_STOPPED)
			err = -ETIMEDOUT;
	}
	if (err < 0)
		return err;
	kp_step();
	if (ptrace(PTRACE_SETSIGMASK, th->tid, sizeof(mask), &mask))
		return -errno;
	err = kp_set_regs(th, &t->before);
	th->in_service = t->called = err != 0;
	return err;
}
