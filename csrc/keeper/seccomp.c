/*
 * Would a seccomp filter of the process end it, or refuse it, for what the agent and the keeper
 * have it call? Found out beforehand: by reading the filters, which takes CAP_SYS_ADMIN; else, for
 * a process that was put under filters as this one was, by trying the calls here.
 *
 * PTRACE_O_SUSPEND_SECCOMP is not used: it ends with this process, and a filter that ends the
 * target must not meet a call of ours then.
 *
 * A stop alone can end a process: a sleep that it interrupts goes on by restart_syscall(2), which the
 * filter is asked about like any call. So who is refused for what /proc says of it is not stopped, and
 * where that call may be forbidden a sleep begins anew (kp_restart_allowed).
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "keeper.h"
#include "shim_sys.h"

enum { MAX_INSNS = 4096, MAX_STEPS = 200000, MAX_FILTERS = 64 };

/* The calls, with arguments that do nothing. may: they are done without if refused by an errno. */
static const struct call {
	int nr;
	const char *name;
	int may;
	long args[3];
} calls[] = {
	{ SYS_read, "read", 0, { -1, 0, 0 } },
	{ SYS_write, "write", 0, { -1, 0, 0 } },
	{ SYS_open, "open", 0, { 0, O_RDONLY | O_CLOEXEC, 0 } },
	{ SYS_close, "close", 0, { -1, 0, 0 } },
	{ SYS_fstat, "fstat", 0, { -1, 0, 0 } },
	{ SYS_mmap, "mmap", 0, { 0, 0, PROT_NONE } },
	{ SYS_mmap, "mmap of memory", 0, { 0, 0, PROT_READ | PROT_WRITE } },
	{ SYS_mmap, "mmap of code", 0, { 0, 0, PROT_READ | PROT_EXEC } },
	{ SYS_mprotect, "mprotect", 0, { 0, 0, PROT_READ } },
	{ SYS_munmap, "munmap", 0, { 0, 0, 0 } },
	{ SYS_rt_sigprocmask, "rt_sigprocmask", 0, { SIG_SETMASK, 0, 0 } },
	{ SYS_rt_sigaction, "rt_sigaction", 1, { 0, 0, 0 } },
	{ SYS_pread64, "pread64", 0, { -1, 0, 0 } },
	{ SYS_pwrite64, "pwrite64", 0, { -1, 0, 0 } },
	{ SYS_sched_yield, "sched_yield", 1, { 0, 0, 0 } },
	{ SYS_madvise, "madvise", 0, { 0, 0, 18 } },
	{ SYS_getpid, "getpid", 0, { 0, 0, 0 } },
	{ SYS_socket, "socket", 0, { 1, 1 | O_CLOEXEC, 0 } },
	{ SYS_socketpair, "socketpair", 0, { 1, 1 | O_CLOEXEC, 0 } },
	{ SYS_connect, "connect", 0, { -1, 0, 0 } },
	{ SYS_sendto, "sendto", 0, { -1, 0, 0 } },
	{ SYS_recvmsg, "recvmsg", 0, { -1, 0, 0 } },
	{ SYS_setsockopt, "setsockopt", 0, { -1, 0, 0 } },
	{ SYS_getsockopt, "getsockopt", 0, { -1, 0, 0 } },
	{ SYS_geteuid, "geteuid", 0, { 0, 0, 0 } },
	{ SYS_gettid, "gettid", 0, { 0, 0, 0 } },
	{ SYS_getppid, "getppid", 0, { 0, 0, 0 } },
	{ SYS_getuid, "getuid", 0, { 0, 0, 0 } },
	{ SYS_getgid, "getgid", 0, { 0, 0, 0 } },
	{ SYS_getpgid, "getpgid", 1, { 0, 0, 0 } },
	{ SYS_uname, "uname", 1, { 0, 0, 0 } },
	{ SYS_futex, "futex", 0, { 0, 1, 0 } },
	{ SYS_futex, "futex", 0, { 0, 0, 0 } }, /* waits, where nothing is */
	{ SYS_nanosleep, "nanosleep", 1, { 0, 0, 0 } },
	{ SYS_tgkill, "tgkill", 0, { -1, -1, 0 } },
	{ SYS_openat, "openat", 0, { -1, 0, O_RDONLY | O_CLOEXEC } },
	{ SYS_getdents64, "getdents64", 1, { -1, 0, 0 } },
	{ SYS_fgetxattr, "fgetxattr", 1, { -1, 0, 0 } },
	{ SYS_kill, "kill", 1, { 0x7fffffff, 0, 0 } },
	{ SYS_tkill, "tkill", 1, { -1, 0, 0 } },
	{ SYS_rt_sigqueueinfo, "rt_sigqueueinfo", 1, { 0x7fffffff, 0, 0 } },
	{ SYS_rt_tgsigqueueinfo, "rt_tgsigqueueinfo", 1, { 0x7fffffff, 0x7fffffff, 0 } },
	{ SYS_pidfd_send_signal, "pidfd_send_signal", 1, { -1, 0, 0 } },
	{ SYS_stat, "stat", 1, { 0, 0, 0 } },
	{ SYS_newfstatat, "newfstatat", 1, { -1, 0, 0 } },
	{ SYS_statfs, "statfs", 1, { 0, 0, 0 } },
	{ SYS_fstatfs, "fstatfs", 1, { -1, 0, 0 } },
	{ SYS_faccessat, "faccessat", 1, { -1, 0, 0 } },
	{ SYS_readlink, "readlink", 1, { 0, 0, 0 } },
	{ SYS_sigaltstack, "sigaltstack", 1, { 0, 0, 0 } },
	{ SYS_prctl, "prctl", 1, { 40, 0, 0 } },
	{ SYS_clock_gettime, "clock_gettime", 0, { 1, 0, 0 } },
	{ SYS_clock_getres, "clock_getres", 1, { 1, 0, 0 } },
	{ SYS_timer_create, "timer_create", 1, { 0x7fff, 0, 0 } },
	{ SYS_timer_settime, "timer_settime", 1, { -1, 0, 0 } },
	{ SYS_timer_delete, "timer_delete", 1, { -1, 0, 0 } },
	{ SYS_getrlimit, "getrlimit", 1, { 3, 0, 0 } },
	{ SYS_getrusage, "getrusage", 1, { 0x7fff, 0, 0 } },
	{ SYS_getrandom, "getrandom", 1, { 0, 0, 0 } },
	{ SYS_mremap, "mremap", 0, { 0, 0, 0 } },
	{ SYS_pipe2, "pipe2", 1, { 0, O_CLOEXEC, 0 } },
	{ SYS_process_vm_readv, "process_vm_readv", 1, { -1, 0, 0 } },
	{ SYS_process_vm_writev, "process_vm_writev", 1, { -1, 0, 0 } },
	{ SYS_membarrier, "membarrier", 1, { SHIM_SERVICE_DONE, 0, 0 } },
	{ SYS_memfd_create, "memfd_create", 0, { 0, 1, 0 } },
	{ SYS_rt_sigreturn, "rt_sigreturn", 0, { 0, 0, 0 } }, /* of a handler of the agent's */
	{ SYS_restart_syscall, "restart_syscall", 0, { 0, 0, 0 } }, /* of what a stop interrupts */
};

enum { NCALLS = sizeof(calls) / sizeof(calls[0]), RESTART = NCALLS - 1 };

/* One run of a filter, its input known but for the address and the last arguments. Where a branch
 * depends on those, both ways are gone. */
struct run {
	const struct sock_filter *code;
	int n;
	long steps;
	s32 worst;
	struct seccomp_data data;
};

struct value {
	u32 word;
	int known;
};

struct machine {
	struct value a, x, mem[BPF_MEMWORDS];
};

static struct value load(const struct run *r, u32 at)
{
	struct value v = { 0, at < offsetof(struct seccomp_data, instruction_pointer) ||
				      (at >= offsetof(struct seccomp_data, args) &&
				       at < offsetof(struct seccomp_data, args[3])) };

	if (at % 4 == 0 && at + 4 <= sizeof(r->data))
		memcpy(&v.word, (const char *)&r->data + at, 4);
	else
		v.known = 0;
	return v;
}

static struct value compute(u16 code, struct value a, struct value b)
{
	struct value v = { 0, a.known && b.known };

	switch (BPF_OP(code)) {
	case BPF_ADD: v.word = a.word + b.word; break;
	case BPF_SUB: v.word = a.word - b.word; break;
	case BPF_MUL: v.word = a.word * b.word; break;
	case BPF_AND: v.word = a.word & b.word; break;
	case BPF_OR: v.word = a.word | b.word; break;
	case BPF_XOR: v.word = a.word ^ b.word; break;
	case BPF_LSH: v.word = b.word < 32 ? a.word << b.word : 0; break;
	case BPF_RSH: v.word = b.word < 32 ? a.word >> b.word : 0; break;
	case BPF_NEG: v = (struct value){ -a.word, a.known }; break;
	default: v.known = 0; /* a division */
	}
	return v;
}

static int taken(u16 code, u32 a, u32 b)
{
	switch (BPF_OP(code)) {
	case BPF_JEQ: return a == b;
	case BPF_JGT: return a > b;
	case BPF_JGE: return a >= b;
	default: return (a & b) != 0;
	}
}

static void result(struct run *r, u32 word)
{
	s32 action = (s32)(word & SECCOMP_RET_ACTION_FULL);

	if (action < r->worst)
		r->worst = action;
}

static void go(struct run *r, int pc, struct machine m)
{
	while (pc >= 0 && pc < r->n) {
		const struct sock_filter *i = &r->code[pc++];
		struct value k = { i->k, 1 }, other = BPF_SRC(i->code) == BPF_X ? m.x : k;

		if (++r->steps > MAX_STEPS)
			break;
		switch (BPF_CLASS(i->code)) {
		case BPF_LD:
			m.a = BPF_MODE(i->code) == BPF_ABS   ? load(r, i->k)
			      : BPF_MODE(i->code) == BPF_MEM ? m.mem[i->k % BPF_MEMWORDS]
			      : BPF_MODE(i->code) == BPF_IMM ? k
							     : (struct value){ sizeof(r->data), 1 };
			break;
		case BPF_LDX:
			m.x = BPF_MODE(i->code) == BPF_MEM   ? m.mem[i->k % BPF_MEMWORDS]
			      : BPF_MODE(i->code) == BPF_IMM ? k
							     : (struct value){ sizeof(r->data), 1 };
			break;
		case BPF_ST: m.mem[i->k % BPF_MEMWORDS] = m.a; break;
		case BPF_STX: m.mem[i->k % BPF_MEMWORDS] = m.x; break;
		case BPF_ALU: m.a = compute(i->code, m.a, other); break;
		case BPF_MISC:
			if (BPF_MISCOP(i->code) == BPF_TAX)
				m.x = m.a;
			else
				m.a = m.x;
			break;
		case BPF_RET:
			if (BPF_RVAL(i->code) == BPF_A && !m.a.known)
				r->worst = INT_MIN;
			result(r, BPF_RVAL(i->code) == BPF_A ? m.a.word : i->k);
			return;
		case BPF_JMP:
			if (BPF_OP(i->code) == BPF_JA) {
				pc += (int)i->k;
			} else if (m.a.known && other.known) {
				pc += taken(i->code, m.a.word, other.word) ? i->jt : i->jf;
			} else {
				go(r, pc + i->jt, m);
				pc += i->jf;
			}
		}
	}
	r->worst = INT_MIN; /* not understood */
}

/* The worst that can come of a call: SECCOMP_RET_*, as the kernel compares them. */
static s32 verdict(const struct sock_filter *code, int n, const struct call *call)
{
	struct run r = { .code = code, .n = n, .worst = INT_MAX };
	struct machine m = { .a = { 0, 1 }, .x = { 0, 1 } };
	int i;

	r.data.nr = call->nr;
	r.data.arch = AUDIT_ARCH_X86_64;
	for (i = 0; i < 3; i++)
		r.data.args[i] = (u64)call->args[i];
	go(&r, 0, m);
	return r.worst;
}

static int judge(const struct call *call, s32 action, char *why, size_t room)
{
	if (action >= (s32)SECCOMP_RET_LOG)
		return 0;
	if (action == (s32)SECCOMP_RET_ERRNO && call->may)
		return 0;
	snprintf(why, room, "its seccomp filter %s %s",
		 action == (s32)SECCOMP_RET_ERRNO ? "refuses" : "may end it for", call->name);
	return -EACCES;
}

/* The calls from 'first' on: 0, -EACCES with the reason, or -EPERM: the filters cannot be read. */
static int by_reading(pid_t tid, int first, char *why, size_t room)
{
	static struct sock_filter code[MAX_INSNS];
	long at, n;
	int c, err = 0;

	for (at = 0; at < MAX_FILTERS && !err; at++) {
		n = ptrace(PTRACE_SECCOMP_GET_FILTER, tid, at, NULL);
		if (n < 0 && errno == ENOENT)
			return 0;
		if (n < 0 || n > MAX_INSNS || ptrace(PTRACE_SECCOMP_GET_FILTER, tid, at, code) < 0)
			return -EPERM;
		for (c = first; c < NCALLS && !err; c++)
			err = judge(&calls[c], verdict(code, (int)n, &calls[c]), why, room);
	}
	return err ? err : -EPERM;
}

/* What /proc says of how somebody came under filters. */
struct lot {
	int mode, filters, no_new_privs;
	char cgroup[1024], mnt[64], pid[64], user[64];
};

static long field(const char *text, const char *name)
{
	const char *at = strstr(text, name);

	return at ? atol(at + strlen(name)) : -1;
}

static void read_file(int dir, const char *name, char *buf, size_t room)
{
	int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, room - 1);

	buf[n > 0 ? n : 0] = 0;
	if (fd >= 0)
		close(fd);
}

static int read_link(int proc, const char *task, const char *name, char text[64])
{
	char path[64];

	snprintf(path, sizeof(path), "%s/ns/%s", task, name);
	return readlinkat(proc, path, text, 63) < 0;
}

static void read_lot(int proc, const char *task, struct lot *lot)
{
	char path[64], status[8192];

	memset(lot, 0, sizeof(*lot));
	snprintf(path, sizeof(path), "%s/status", task);
	read_file(proc, path, status, sizeof(status));
	/* of one that has ended, as a leader before its threads, there is nothing to be done */
	if (strstr(status, "\nState:\tZ") || strstr(status, "\nState:\tX"))
		return;
	lot->mode = (int)field(status, "\nSeccomp:");
	lot->filters = (int)field(status, "\nSeccomp_filters:");
	lot->no_new_privs = (int)field(status, "\nNoNewPrivs:");
	snprintf(path, sizeof(path), "%s/cgroup", task);
	read_file(proc, path, lot->cgroup, sizeof(lot->cgroup));
	if (read_link(proc, task, "mnt", lot->mnt) || read_link(proc, task, "pid", lot->pid) ||
	    read_link(proc, task, "user", lot->user))
		lot->filters = -1;
}

/*
 * The same filters, as far as one can tell without reading them: as many; put on by somebody with
 * privileges that neither has now (no_new_privs is off: the program cannot have done it itself);
 * and started by the same hand, that is, in one cgroup and the same namespaces.
 */
static int same_lot(const struct lot *a, const struct lot *b)
{
	return geteuid() && a->mode == 2 && b->mode == 2 && a->filters > 0 &&
	       a->filters == b->filters && !a->no_new_privs && !b->no_new_privs &&
	       !strcmp(a->cgroup, b->cgroup) && !strcmp(a->mnt, b->mnt) && !strcmp(a->pid, b->pid) &&
	       !strcmp(a->user, b->user);
}

static void nothing(int sig)
{
	(void)sig;
}

static long try(const struct call *call)
{
	if (call->nr != SYS_rt_sigreturn)
		return shim_sys3(call->nr, call->args[0], call->args[1], call->args[2]);
	signal(SIGUSR1, nothing);
	return raise(SIGUSR1);
}

/* A child makes the calls; it says where it is, in case it does not come back from one. */
static void child_tries(volatile s32 *results)
{
	int c;

	for (c = 0; c < NCALLS; c++) {
		long ret;

		if (results[c] != INT_MIN)
			continue;
		results[c] = (s32)SECCOMP_RET_KILL_THREAD;
		ret = try(&calls[c]);
		results[c] = (s32)(ret == -EPERM || ret == -ENOSYS ? SECCOMP_RET_ERRNO
								   : SECCOMP_RET_ALLOW);
	}
	_exit(0);
}

static int by_trying(int first, char *why, size_t room)
{
	static volatile s32 *results;
	int c, tries, status = 1, err = 0;

	if (!results) {
		void *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

		if (at == MAP_FAILED)
			return -ENOMEM;
		results = at;
		for (c = 0; c < NCALLS; c++)
			results[c] = INT_MIN;
		for (tries = 0; tries <= NCALLS && status; tries++) {
			pid_t pid = fork();

			if (!pid)
				child_tries(results);
			if (pid < 0 || waitpid(pid, &status, 0) != pid)
				break;
		}
	}
	for (c = first; c < NCALLS && !err; c++)
		err = judge(&calls[c], results[c], why, room);
	return err;
}

/* stopped: its filters can be asked for; else what needs no stop. */
static int one_thread(int proc, pid_t tid, const struct lot *own, int stopped, char *why, size_t room)
{
	struct lot lot;
	char task[32];
	int err = -EPERM;

	snprintf(task, sizeof(task), "task/%d", tid);
	read_lot(proc, task, &lot);
	if (lot.mode <= 0)
		return 0;
	if (lot.mode == 1) {
		snprintf(why, room, "it is in seccomp's strict mode");
		return -EACCES;
	}
	if (stopped)
		err = by_reading(tid, 0, why, room);
	else if (!geteuid())
		return 0;
	if (err != -EPERM)
		return err;
	if (same_lot(&lot, own))
		return by_trying(0, why, room);
	snprintf(why, room, "what its seccomp filter does to it cannot be read without CAP_SYS_ADMIN");
	return -EACCES;
}

static void own_lot(struct lot *own)
{
	int self = open("/proc/self", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	memset(own, 0, sizeof(*own));
	if (self < 0)
		return;
	read_lot(self, ".", own);
	close(self);
}

int kp_seccomp(struct kp_target *t, char *why, size_t room)
{
	struct lot own;
	int i, err = 0;

	own_lot(&own);
	for (i = 0; i < t->nthreads && !err; i++)
		if (t->threads[i].state == KP_STOPPED)
			err = one_thread(t->proc, t->threads[i].tid, &own, 1, why, room);
	return err;
}

int kp_seccomp_ahead(pid_t pid, char *why, size_t room)
{
	struct dirent *entry;
	struct lot own;
	char path[64];
	int proc, err = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d", pid);
	proc = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	dir = proc < 0 ? NULL : opendir(path);
	own_lot(&own);
	while (dir && !err && (entry = readdir(dir)))
		if (atoi(entry->d_name) > 0)
			err = one_thread(proc, atoi(entry->d_name), &own, 0, why, room);
	if (dir)
		closedir(dir);
	if (proc >= 0)
		close(proc);
	return err;
}

int kp_restart_allowed(const struct kp_target *t, pid_t tid)
{
	char task[32], why[256];
	struct lot lot, own;
	int err;

	snprintf(task, sizeof(task), "task/%d", tid);
	read_lot(t->proc, task, &lot);
	if (lot.mode <= 0)
		return 1;
	err = by_reading(tid, RESTART, why, sizeof(why));
	if (err != -EPERM)
		return !err;
	own_lot(&own);
	return same_lot(&lot, &own) && !by_trying(RESTART, why, sizeof(why));
}
