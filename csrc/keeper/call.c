/*
 * The self-restoring call: one thread is pointed at the agent's service entry, which puts
 * back everything that was interrupted, by itself, also when this process dies meanwhile.
 *
 * After it the thread stands at the marker system call, its stopped state lies in the
 * service frame, and the other threads have not moved: windows may be written now.
 */
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "keeper.h"

/* Results of an interrupted system call that the kernel would restart (linux/errno.h). */
enum { ERESTARTSYS = 512, ERESTARTNOINTR = 513, ERESTARTNOHAND = 514, ERESTART_BLOCK = 516 };

/* Registers as the kernel would resume the thread with (arch_do_signal_or_restart). */
static void restart_syscall(struct user_regs_struct *regs)
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
	regs->orig_rax = -1;
}

static void fill_frame(struct shim_service_frame *f, const struct user_regs_struct *r)
{
	f->r15 = r->r15, f->r14 = r->r14, f->r13 = r->r13, f->r12 = r->r12;
	f->bp = r->rbp, f->bx = r->rbx, f->r11 = r->r11, f->r10 = r->r10;
	f->r9 = r->r9, f->r8 = r->r8, f->ax = r->rax, f->cx = r->rcx;
	f->dx = r->rdx, f->si = r->rsi, f->di = r->rdi;
	f->ip = r->rip, f->cs = r->cs, f->flags = r->eflags, f->sp = r->rsp, f->ss = r->ss;
}

static int in_service(const struct user_regs_struct *regs, u64 frame)
{
	return regs->rsp > frame - KP_SERVICE_STACK &&
	       regs->rsp < frame + sizeof(struct shim_service_frame);
}

/*
 * The thread to call: no signal in delivery, its registers in *regs. -EBUSY if any thread is
 * inside the service already; 'busy' of the frame says nothing, its keeper may have died.
 */
static int choose(struct kp_target *t, u64 frame, struct user_regs_struct *regs,
		  struct kp_thread **chosen)
{
	struct user_regs_struct r;
	int i, err;

	*chosen = NULL;
	for (i = 0; i < t->nthreads; i++) {
		struct kp_thread *th = &t->threads[i];

		if (th->state != KP_STOPPED)
			continue;
		err = kp_get_regs(th, &r);
		if (err)
			return err;
		if (in_service(&r, frame))
			return -EBUSY;
		if (r.cs != 0x33)
			return -EOPNOTSUPP; /* 32-bit code */
		if (!*chosen || ((*chosen)->sig && !th->sig)) {
			*chosen = th;
			*regs = r;
		}
	}
	return *chosen ? 0 : -ESRCH;
}

static int at_marker(struct kp_thread *th)
{
	struct user_regs_struct r;

	return !kp_get_regs(th, &r) && r.orig_rax == SYS_membarrier && r.rdi == SHIM_SERVICE_DONE;
}

/* Runs the thread from system call to system call until the marker. */
static int run_to_marker(struct kp_target *t, struct kp_thread *th, long deadline)
{
	int err;

	if (th->sig) {
		t->held_sigs |= 1ULL << (th->sig - 1);
		t->held_tid = th->tid;
		th->sig = 0;
	}
	for (;;) {
		err = kp_resume(th, PTRACE_SYSCALL, 0);
		while (!err && th->state == KP_RUNNING) {
			if (kp_now_ms() >= deadline)
				return -ETIMEDOUT;
			kp_wait(t, deadline);
		}
		if (err || th->state == KP_GONE)
			return -ESRCH;
		if (th->event == (SIGTRAP | 0x80)) {
			if (at_marker(th))
				return 0;
		} else if (th->sig) {
			/* Before the service had blocked it: sent again at release. */
			t->held_sigs |= 1ULL << (th->sig - 1);
			t->held_tid = th->tid;
			th->sig = 0;
		}
	}
}

static int root_frame(struct kp_target *t, u64 root, u64 *entry, u64 *frame)
{
	struct shim_agent a;
	int err = kp_read(t, root, &a, offsetof(struct shim_agent, nr_sites));

	if (err)
		return err;
	if (a.magic != SHIM_AGENT_MAGIC || a.version != SHIM_AGENT_VERSION)
		return -EPROTO;
	if (a.lock)
		return -EBUSY; /* its holder stands still: the caller lets go and tries again */
	if (!a.service_entry || !a.service_frame)
		return -ENOENT;
	*entry = a.service_entry;
	*frame = a.service_frame;
	return 0;
}

int kp_call(struct kp_target *t, const struct shim_kp_call *call)
{
	struct shim_service_frame f = { 0 };
	struct user_regs_struct regs;
	struct kp_thread *th;
	u64 entry, frame;
	s32 result;
	int err;

	if (t->frame)
		return -EBUSY; /* one call a stop: its frame holds a thread's registers */
	err = root_frame(t, call->root, &entry, &frame);
	if (!err)
		err = choose(t, frame, &regs, &th);
	if (err)
		return err;
	restart_syscall(&regs);
	fill_frame(&f, &regs);
	if (ptrace(PTRACE_GETSIGMASK, th->tid, sizeof(f.sigmask), &f.sigmask))
		return -errno;
	f.busy = 1;
	f.result = -EINPROGRESS;
	f.reason = call->reason;
	memcpy(f.path, call->path, sizeof(f.path));
	f.path[sizeof(f.path) - 1] = 0;
	err = kp_write(t, frame, &f, sizeof(f));
	if (err)
		return err;
	regs.rip = entry;
	regs.rsp = frame;
	err = kp_set_regs(th, &regs);
	if (err)
		return err;
	t->frame = frame;
	th->in_service = 1;
	err = run_to_marker(t, th, kp_now_ms() + (call->timeout_ms > 60000 ? 60000 : call->timeout_ms));
	if (err)
		return err;
	err = kp_read(t, frame + offsetof(struct shim_service_frame, result), &result, sizeof(result));
	return err ? err : result;
}
