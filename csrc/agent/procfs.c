/* What the agent asks of /proc/self. Each descriptor lives only inside one function. */
#include "state.h"
#include "ret.h"

static long open_proc(const char *path, u32 flags)
{
	return shim_sys3(NR_OPEN, path, flags | O_CLOEXEC_, 0);
}

/* Field 22 of /proc/self/stat; the second one, the name, may hold anything but ends at the last ')'. */
u64 agent_start_time(void)
{
	char text[1024];
	long fd, len, at;
	u64 value = 0;

	if (agent_private.start_time)
		return agent_private.start_time;
	fd = open_proc("/proc/self/stat", 0);
	if (fd < 0)
		return 0;
	len = shim_sys3(NR_READ, fd, text, sizeof(text));
	shim_sys1(NR_CLOSE, fd);
	for (at = len; at > 0 && text[at - 1] != ')'; at--)
		;
	if (at <= 0)
		return 0;
	for (u32 spaces = 0; at < len && spaces < 20; at++)
		spaces += text[at] == ' ';
	for (; at < len && text[at] >= '0' && text[at] <= '9'; at++)
		value = value * 10 + (u64)(text[at] - '0');
	agent_private.start_time = value;
	return value;
}

struct dirent64 {
	u64 ino;
	s64 off;
	u16 reclen;
	u8 type;
	char name[];
};

u32 agent_nthreads(void)
{
	char buf[2048] __attribute__((aligned(8)));
	long fd = open_proc("/proc/self/task", O_DIRECTORY_), len;
	u32 count = 0;

	if (fd < 0)
		return 0;
	while ((len = shim_sys3(NR_GETDENTS64, fd, buf, sizeof(buf))) > 0)
		for (long at = 0; at < len; at += ((struct dirent64 *)(buf + at))->reclen)
			count += ((struct dirent64 *)(buf + at))->name[0] != '.';
	shim_sys1(NR_CLOSE, fd);
	if (len < 0)
		return 0;
	return shim_agent_root.mailbox && count ? count - 1 : count;
}

/*
 * Detaching from oneself: ESRCH, since nobody is one's own tracer, unless a filter answers first.
 * Yama's scope 2 and more refuse what an unprivileged keeper would do; 1 does unless the process
 * allows it.
 */
void agent_ptrace_probe(void)
{
	enum { PTRACE_DETACH = 17, PR_CAPBSET_READ = 23, CAP_SYS_PTRACE = 19 };
	struct agent_private *p = &agent_private;
	long ret = shim_sys4(NR_PTRACE, PTRACE_DETACH, shim_sys0(NR_GETPID), 0, 0);
	char scope = 0;
	long fd;

	p->yama = 0;
	p->ptrace_errno = ret < 0 && ret != -E_SRCH ? (s32)-ret : 0;
	if (ret != -E_SRCH)
		return;
	fd = open_proc("/proc/sys/kernel/yama/ptrace_scope", 0);
	if (fd < 0)
		return;
	if (shim_sys3(NR_READ, fd, &scope, 1) != 1)
		scope = 0;
	shim_sys1(NR_CLOSE, fd);
	p->ptrace_errno = scope >= '2' ? E_PERM : 0;
	p->yama = scope == '1' &&
		  (p->euid || shim_sys2(NR_PRCTL, PR_CAPBSET_READ, CAP_SYS_PTRACE) != 1);
}

/* One line of maps, a character at a time. */
struct line {
	u64 lo, hi;
	u64 tail; /* its last eight characters */
	u32 field; /* 0 lo, 1 hi, 2 the rest */
};

static int feed(struct line *l, char c)
{
	u64 digit = (u64)(c <= '9' ? c - '0' : c - 'a' + 10);

	if (c == '\n')
		return 1;
	l->tail = l->tail << 8 | (u8)c;
	if (l->field < 2 && (c == '-' || c == ' '))
		l->field++;
	else if (l->field == 0)
		l->lo = l->lo << 4 | digit;
	else if (l->field == 1)
		l->hi = l->hi << 4 | digit;
	return 0;
}

static void bounds(const struct line *l, u64 fs_base, u64 *lo, u64 *hi)
{
	const u64 stack = 0x5b737461636b5dull; /* "[stack]" */
	enum { RLIMIT_STACK = 3 };
	u64 limit[2] = { 8 << 20, 0 };
	const u64 most = 128 << 20; /* the kernel's least gap below the main stack */

	if ((l->tail & 0xffffffffffffffull) == stack) {
		shim_sys2(NR_GETRLIMIT, RLIMIT_STACK, limit);
		*hi = l->hi;
		*lo = l->hi - (limit[0] < most ? limit[0] : most);
	} else if (fs_base > l->lo && fs_base < l->hi) { /* libc: control block above the stack */
		*lo = l->lo;
		*hi = fs_base;
	}
}

void agent_stack_bounds(u64 sp, u64 fs_base, u64 *lo, u64 *hi)
{
	char buf[1024];
	long fd = open_proc("/proc/self/maps", 0), len;
	struct line l = { 0, 0, 0, 0 };

	if (fd < 0)
		return;
	while ((len = shim_sys3(NR_READ, fd, buf, sizeof(buf))) > 0) {
		for (long i = 0; i < len; i++) {
			if (!feed(&l, buf[i]))
				continue;
			if (sp >= l.lo && sp < l.hi) {
				bounds(&l, fs_base, lo, hi);
				goto out;
			}
			l.lo = l.hi = l.tail = l.field = 0;
		}
	}
out:
	shim_sys1(NR_CLOSE, fd);
}
