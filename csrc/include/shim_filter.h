/*
 * What the agent and the keeper have a process call, and what a seccomp filter would do to that: read
 * by the keeper of somebody else's filters (keeper/seccomp.c), by the agent of one that is about to be
 * installed (agent/fence.c). Not for cffi.
 */
#ifndef SHIM_FILTER_H
#define SHIM_FILTER_H

#include <asm/unistd.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>

#include "shim_agent.h"

enum {
	FILTER_INSNS = 4096,
	FILTER_STEPS = 200000,
	FILTER_CLOEXEC = 02000000,
	FILTER_BEST = 0x7fffffff,
	FILTER_UNKNOWN = -0x7fffffff - 1, /* worse than all others */
};

/* The calls, with arguments that do nothing. may: they are done without if refused by an errno. */
static const struct shim_needed {
	int nr;
	const char *name;
	int may;
	long args[3];
} shim_needed[] = {
	{ __NR_read, "read", 0, { -1, 0, 0 } },
	{ __NR_write, "write", 0, { -1, 0, 0 } },
	{ __NR_open, "open", 0, { 0, FILTER_CLOEXEC, 0 } },
	{ __NR_close, "close", 0, { -1, 0, 0 } },
	{ __NR_fstat, "fstat", 0, { -1, 0, 0 } },
	{ __NR_mmap, "mmap", 0, { 0, 0, 0 } },
	{ __NR_mmap, "mmap of memory", 0, { 0, 0, 1 | 2 } },
	{ __NR_mmap, "mmap of code", 0, { 0, 0, 1 | 4 } },
	{ __NR_mprotect, "mprotect", 0, { 0, 0, 1 } },
	{ __NR_munmap, "munmap", 0, { 0, 0, 0 } },
	{ __NR_rt_sigprocmask, "rt_sigprocmask", 0, { 2, 0, 0 } },
	{ __NR_rt_sigaction, "rt_sigaction", 1, { 0, 0, 0 } },
	{ __NR_pread64, "pread64", 0, { -1, 0, 0 } },
	{ __NR_pwrite64, "pwrite64", 0, { -1, 0, 0 } },
	{ __NR_sched_yield, "sched_yield", 1, { 0, 0, 0 } },
	{ __NR_madvise, "madvise", 0, { 0, 0, 18 } },
	{ __NR_getpid, "getpid", 0, { 0, 0, 0 } },
	{ __NR_socket, "socket", 0, { 1, 1 | FILTER_CLOEXEC, 0 } },
	{ __NR_socketpair, "socketpair", 0, { 1, 1 | FILTER_CLOEXEC, 0 } },
	{ __NR_connect, "connect", 0, { -1, 0, 0 } },
	{ __NR_sendto, "sendto", 0, { -1, 0, 0 } },
	{ __NR_recvmsg, "recvmsg", 0, { -1, 0, 0 } },
	{ __NR_setsockopt, "setsockopt", 0, { -1, 0, 0 } },
	{ __NR_getsockopt, "getsockopt", 0, { -1, 0, 0 } },
	{ __NR_geteuid, "geteuid", 0, { 0, 0, 0 } },
	{ __NR_gettid, "gettid", 0, { 0, 0, 0 } },
	{ __NR_getppid, "getppid", 0, { 0, 0, 0 } },
	{ __NR_getuid, "getuid", 0, { 0, 0, 0 } },
	{ __NR_getgid, "getgid", 0, { 0, 0, 0 } },
	{ __NR_getpgid, "getpgid", 1, { 0, 0, 0 } },
	{ __NR_uname, "uname", 1, { 0, 0, 0 } },
	{ __NR_futex, "futex", 0, { 0, 1, 0 } },
	{ __NR_futex, "futex", 0, { 0, 0, 0 } }, /* waits, where nothing is */
	{ __NR_nanosleep, "nanosleep", 1, { 0, 0, 0 } },
	{ __NR_tgkill, "tgkill", 0, { -1, -1, 0 } },
	{ __NR_openat, "openat", 0, { -1, 0, FILTER_CLOEXEC } },
	{ __NR_getdents64, "getdents64", 1, { -1, 0, 0 } },
	{ __NR_fgetxattr, "fgetxattr", 1, { -1, 0, 0 } },
	{ __NR_kill, "kill", 1, { 0x7fffffff, 0, 0 } },
	{ __NR_tkill, "tkill", 1, { -1, 0, 0 } },
	{ __NR_rt_sigqueueinfo, "rt_sigqueueinfo", 1, { 0x7fffffff, 0, 0 } },
	{ __NR_rt_tgsigqueueinfo, "rt_tgsigqueueinfo", 1, { 0x7fffffff, 0x7fffffff, 0 } },
	{ __NR_pidfd_send_signal, "pidfd_send_signal", 1, { -1, 0, 0 } },
	{ __NR_stat, "stat", 1, { 0, 0, 0 } },
	{ __NR_newfstatat, "newfstatat", 1, { -1, 0, 0 } },
	{ __NR_statfs, "statfs", 1, { 0, 0, 0 } },
	{ __NR_fstatfs, "fstatfs", 1, { -1, 0, 0 } },
	{ __NR_faccessat, "faccessat", 1, { -1, 0, 0 } },
	{ __NR_readlink, "readlink", 1, { 0, 0, 0 } },
	{ __NR_sigaltstack, "sigaltstack", 1, { 0, 0, 0 } },
	{ __NR_prctl, "prctl", 1, { 40, 0, 0 } },
	{ __NR_prctl, "prctl", 1, { 25, 0, 0 } },
	{ __NR_clock_gettime, "clock_gettime", 0, { 1, 0, 0 } },
	{ __NR_clock_getres, "clock_getres", 1, { 1, 0, 0 } },
	{ __NR_timer_create, "timer_create", 1, { 0x7fff, 0, 0 } },
	{ __NR_timer_settime, "timer_settime", 1, { -1, 0, 0 } },
	{ __NR_timer_delete, "timer_delete", 1, { -1, 0, 0 } },
	{ __NR_getrlimit, "getrlimit", 1, { 3, 0, 0 } },
	{ __NR_getrusage, "getrusage", 1, { 0x7fff, 0, 0 } },
	{ __NR_getrandom, "getrandom", 1, { 0, 0, 0 } },
	{ __NR_mremap, "mremap", 0, { 0, 0, 0 } },
	{ __NR_pipe2, "pipe2", 1, { 0, FILTER_CLOEXEC, 0 } },
	{ __NR_process_vm_readv, "process_vm_readv", 1, { -1, 0, 0 } },
	{ __NR_process_vm_writev, "process_vm_writev", 1, { -1, 0, 0 } },
	{ __NR_membarrier, "membarrier", 1, { SHIM_SERVICE_DONE, 0, 0 } },
	{ __NR_memfd_create, "memfd_create", 0, { 0, 1, 0 } },
	/* isolation: mpk */
	{ __NR_pkey_alloc, "pkey_alloc", 1, { -1, 0, 0 } },
	{ __NR_pkey_mprotect, "pkey_mprotect", 1, { 0, 0, 1 } },
	{ __NR_pkey_free, "pkey_free", 1, { -1, 0, 0 } },
	{ __NR_rt_sigreturn, "rt_sigreturn", 0, { 0, 0, 0 } }, /* of a handler of the agent's */
	{ __NR_restart_syscall, "restart_syscall", 0, { 0, 0, 0 } }, /* of what a stop interrupts */
};

/* One run of a filter, its input known but for the address and the last arguments. Where a branch
 * depends on those, both ways are gone. */
struct filter_run {
	const struct sock_filter *code;
	int n;
	long steps;
	int deepest; /* branches that are not known, one behind the other */
	s32 worst;
	struct seccomp_data data;
};

struct filter_value {
	u32 word;
	int known;
};

struct filter_machine {
	struct filter_value a, x, mem[BPF_MEMWORDS];
};

static struct filter_value filter_load(const struct filter_run *r, u32 at)
{
	struct filter_value v = { 0,
				  at < __builtin_offsetof(struct seccomp_data, instruction_pointer) ||
					  (at >= __builtin_offsetof(struct seccomp_data, args) &&
					   at < __builtin_offsetof(struct seccomp_data, args[3])) };

	if (at % 4 == 0 && at + 4 <= sizeof(r->data))
		__builtin_memcpy(&v.word, (const char *)&r->data + at, 4);
	else
		v.known = 0;
	return v;
}

static struct filter_value filter_compute(u16 code, struct filter_value a, struct filter_value b)
{
	struct filter_value v = { 0, a.known && b.known };

	switch (BPF_OP(code)) {
	case BPF_ADD: v.word = a.word + b.word; break;
	case BPF_SUB: v.word = a.word - b.word; break;
	case BPF_MUL: v.word = a.word * b.word; break;
	case BPF_AND: v.word = a.word & b.word; break;
	case BPF_OR: v.word = a.word | b.word; break;
	case BPF_XOR: v.word = a.word ^ b.word; break;
	case BPF_LSH: v.word = b.word < 32 ? a.word << b.word : 0; break;
	case BPF_RSH: v.word = b.word < 32 ? a.word >> b.word : 0; break;
	case BPF_NEG: v = (struct filter_value){ -a.word, a.known }; break;
	default: v.known = 0; /* a division */
	}
	return v;
}

static int filter_taken(u16 code, u32 a, u32 b)
{
	switch (BPF_OP(code)) {
	case BPF_JEQ: return a == b;
	case BPF_JGT: return a > b;
	case BPF_JGE: return a >= b;
	default: return (a & b) != 0;
	}
}

static void filter_result(struct filter_run *r, u32 word)
{
	s32 action = (s32)(word & SECCOMP_RET_ACTION_FULL);

	if (action < r->worst)
		r->worst = action;
}

static void filter_go(struct filter_run *r, int pc, struct filter_machine m, int deep)
{
	while (pc >= 0 && pc < r->n && deep < r->deepest) {
		const struct sock_filter *i = &r->code[pc++];
		struct filter_value k = { i->k, 1 }, other = BPF_SRC(i->code) == BPF_X ? m.x : k;

		if (++r->steps > FILTER_STEPS)
			break;
		switch (BPF_CLASS(i->code)) {
		case BPF_LD:
			m.a = BPF_MODE(i->code) == BPF_ABS   ? filter_load(r, i->k)
			      : BPF_MODE(i->code) == BPF_MEM ? m.mem[i->k % BPF_MEMWORDS]
			      : BPF_MODE(i->code) == BPF_IMM
				      ? k
				      : (struct filter_value){ sizeof(r->data), 1 };
			break;
		case BPF_LDX:
			m.x = BPF_MODE(i->code) == BPF_MEM ? m.mem[i->k % BPF_MEMWORDS]
			      : BPF_MODE(i->code) == BPF_IMM
				      ? k
				      : (struct filter_value){ sizeof(r->data), 1 };
			break;
		case BPF_ST: m.mem[i->k % BPF_MEMWORDS] = m.a; break;
		case BPF_STX: m.mem[i->k % BPF_MEMWORDS] = m.x; break;
		case BPF_ALU: m.a = filter_compute(i->code, m.a, other); break;
		case BPF_MISC:
			if (BPF_MISCOP(i->code) == BPF_TAX)
				m.x = m.a;
			else
				m.a = m.x;
			break;
		case BPF_RET:
			if (BPF_RVAL(i->code) == BPF_A && !m.a.known)
				r->worst = FILTER_UNKNOWN;
			filter_result(r, BPF_RVAL(i->code) == BPF_A ? m.a.word : i->k);
			return;
		case BPF_JMP:
			if (BPF_OP(i->code) == BPF_JA) {
				pc += (int)i->k;
			} else if (m.a.known && other.known) {
				pc += filter_taken(i->code, m.a.word, other.word) ? i->jt : i->jf;
			} else {
				filter_go(r, pc + i->jt, m, deep + 1);
				pc += i->jf;
			}
		}
	}
	r->worst = FILTER_UNKNOWN; /* not understood */
}

/* The worst that can come of a call: SECCOMP_RET_*, as the kernel compares them. */
static s32 shim_filter_verdict(const struct sock_filter *code, int n, int deepest,
			       const struct shim_needed *call)
{
	struct filter_run r = { .code = code, .n = n, .deepest = deepest, .worst = FILTER_BEST };
	struct filter_machine m = { .a = { 0, 1 }, .x = { 0, 1 } };
	int i;

	r.data.nr = call->nr;
	r.data.arch = AUDIT_ARCH_X86_64;
	for (i = 0; i < 3; i++)
		r.data.args[i] = (u64)call->args[i];
	filter_go(&r, 0, m, 0);
	return r.worst;
}

/* Of a call whose worst that is: 0, it is as good as allowed. */
static int shim_filter_minds(const struct shim_needed *call, s32 action)
{
	return action < (s32)SECCOMP_RET_LOG && (action != (s32)SECCOMP_RET_ERRNO || !call->may);
}

#endif
