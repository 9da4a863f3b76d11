/*
 * Reads of the kernel's memory, as far as it is known here: the running thread's struct task_struct
 * and what it leads to (shim_task.h). Each read asks the kernel anew, by the cheapest call that
 * tells, else /proc: nothing is kept that fork, exec, prctl or setuid could change.
 */
#include "runtime.h"
#include "shim_names.h"
#include "task.h"

enum { NR_STAT = 4, NR_UNAME = 63, NR_GETPPID = 110, AT_LEAST = 8 };
enum { NR_READ = 0, NR_OPEN = 2, NR_CLOSE = 3, NR_GETPID = 39, NR_PRCTL = 157 };
enum { O_CLOEXEC_ = 02000000, PR_GET_NAME_ = 16, COMM = 16, NODENAME = 65, STATUS = 1536, STAT = 768 };
enum { MONOTONIC = 1, BOOTTIME = 7, TICK = 10000000 /* USER_HZ: 100 */, MS = 1000000 };
enum { OFF_MASK = (1 << SHIM_TASK_OFF_BITS) - 1, TID_MASK = (1 << SHIM_TASK_TID_BITS) - 1 };
static const u64 BASE = 0xffff8f0000000000ull;

/* A structure, and who reads. */
struct view {
	const struct shim_run *run;
	u32 kind;
	u32 tid;
	u32 off;
	bool self; /* tid is the thread that runs */
	const struct shim_stand_in *other; /* or that in whose name it does */
};

static u64 address(u32 kind, u32 tid)
{
	return BASE | (u64)kind << SHIM_TASK_KIND_SHIFT | (u64)(tid & TID_MASK) << SHIM_TASK_OFF_BITS;
}

u64 task_address(u32 tid)
{
	return address(SHIM_TASK_TASK, tid);
}

static bool view_of(u64 addr, const struct shim_run *run, struct view *v)
{
	u64 rest = addr ^ BASE;

	if (rest >> (SHIM_TASK_KIND_SHIFT + SHIM_TASK_KIND_BITS))
		return false;
	v->run = run;
	v->kind = (u32)(rest >> SHIM_TASK_KIND_SHIFT);
	v->tid = (u32)(rest >> SHIM_TASK_OFF_BITS) & TID_MASK;
	v->off = (u32)rest & OFF_MASK;
	v->other = stand_in(run) && v->tid == stand_in(run)->thread.tid ? stand_in(run) : 0;
	v->self = !v->other && v->tid == current_tid(run);
	return v->kind;
}

u32 task_of_address(u64 addr)
{
	struct view v;
	struct shim_run nobody = { 0 };

	return view_of(addr, &nobody, &v) && v.kind == SHIM_TASK_TASK && !v.off ? v.tid : 0;
}

/* /proc/TID/NAME; of the running thread by the name that holds in any pid namespace. */
static void proc_path(char path[64], const struct view *v, const char *name)
{
	static const char self[] = "/proc/thread-self/", proc[] = "/proc/";
	u32 at = v->self ? sizeof(self) - 1 : sizeof(proc) - 1, digits = 1;

	memcpy(path, v->self ? self : proc, at);
	if (!v->self) {
		u32 rest = v->tid;

		for (u32 more = rest / 10; more; more /= 10)
			digits++;
		for (u32 i = digits; i-- > 0; rest /= 10)
			path[at + i] = (char)('0' + rest % 10);
		at += digits;
		path[at++] = '/';
	}
	do
		path[at++] = *name;
	while (*name++);
}

/* What of the file fits; negative errno. */
static long proc_read(const struct view *v, const char *name, char *text, u64 room)
{
	char path[64];
	long fd, n = 0, got;

	if (shim_names.foreign)
		return shim_ask_file((struct shim_ctl *)v->run->ctl, v->tid, name, text, room);
	proc_path(path, v, name);
	fd = shim_sys3(NR_OPEN, path, O_CLOEXEC_, 0);
	if (fd < 0)
		return fd;
	while ((u64)n < room && (got = shim_sys3(NR_READ, fd, text + n, room - (u64)n)) > 0)
		n += got;
	shim_sys1(NR_CLOSE, fd);
	return n;
}

static bool number(const char *text, long len, u32 base, u64 *out)
{
	long at = 0;

	for (*out = 0; at < len; at++) {
		u32 c = (u8)text[at], digit = c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10;

		if (digit >= base)
			break;
		*out = *out * base + digit;
	}
	return at;
}

/* The index-th number, from 0, of a line of /proc/TID/status. name: with its newline before and its
 * colon. */
static bool status(const struct view *v, const char *name, u32 index, u32 base, u64 *out)
{
	char text[STATUS];
	long n = proc_read(v, "status", text, sizeof(text)), len = 0, at;

	while (name[len])
		len++;
	for (at = 0; at + len < n && memcmp(text + at, name, (u64)len); at++)
		;
	if (at + len >= n)
		return false;
	for (at += len; at < n && text[at] != '\n'; at++) {
		if (text[at] == ' ' || text[at] == '\t')
			continue;
		if (!index--)
			return number(text + at, n - at, base, out);
		while (at + 1 < n && text[at + 1] != ' ' && text[at + 1] != '\t' &&
		       text[at + 1] != '\n')
			at++;
	}
	return false;
}

/* Field n of /proc/TID/stat, as proc_pid_stat(5) counts them: 3, the state, as its letter. */
static bool stat_field(const struct view *v, u32 n, s64 *out)
{
	char text[STAT];
	long len = proc_read(v, "stat", text, sizeof(text)), at = len - 1;
	u64 value;
	bool minus;

	while (at > 0 && text[at] != ')')
		at--;
	if (at <= 0)
		return false;
	for (at += 2; n > 3 && at < len; at++)
		n -= text[at] == ' ';
	if (at >= len)
		return false;
	if (text[at] >= 'A') {
		*out = text[at];
		return true;
	}
	minus = text[at] == '-';
	at += minus;
	if (!number(text + at, len - at, 10, &value))
		return false;
	*out = minus ? -(s64)value : (s64)value;
	return true;
}

static u32 parent_of(const struct shim_run *run)
{
	return stand_in(run) ? stand_in(run)->parent : (u32)shim_sys0(NR_GETPPID);
}

static bool tgid(const struct view *v, u64 *out)
{
	const struct shim_thread *t = (const struct shim_thread *)v->run->thread;

	if (v->self) {
		*out = t ? t->tgid : (u64)shim_sys0(NR_GETPID);
		return true;
	}
	if (!v->tid || v->other) { /* 0: who has no parent here */
		*out = v->other ? v->other->thread.tgid : 0;
		return true;
	}
	if (!shim_names.foreign && v->tid == parent_of(v->run)) { /* which may be gone meanwhile */
		*out = v->tid;
		return true;
	}
	return status(v, "\nTgid:", 0, 10, out);
}

static bool parent(const struct view *v, u64 *out)
{
	s64 n = 0;

	if (v->other)
		n = v->other->parent;
	else if (v->self && !shim_names.foreign)
		n = shim_sys0(NR_GETPPID);
	else if (v->tid && !stat_field(v, 4, &n))
		return false;
	*out = task_address((u32)n);
	return true;
}

/* The one that is told of it: the tracer, if there is one. */
static bool tracer(const struct view *v, u64 *out)
{
	if (!status(v, "\nTracerPid:", 0, 10, out))
		return false;
	if (!*out)
		return parent(v, out);
	*out = task_address((u32)*out);
	return true;
}

static bool comm(const struct view *v, u8 *out)
{
	long n;

	if (v->other) {
		memcpy(out, v->other->comm, COMM);
		return true;
	}
	if (v->self)
		return !shim_sys2(NR_PRCTL, PR_GET_NAME_, out);
	if (!v->tid)
		return true;
	n = proc_read(v, "comm", (char *)out, COMM);
	for (; n > 0 && out[n - 1] != '\n'; n--)
		;
	if (n <= 0)
		return false;
	out[n - 1] = 0;
	return true;
}

/* start_boottime is what /proc tells, in ticks; the monotonic clock stands behind it by the time
 * that the machine slept, whole milliseconds, so that two reads give the same. */
static bool start_time(const struct view *v, bool boot, u64 *out)
{
	s64 ticks, slept;

	if (v->other)
		ticks = (s64)v->other->start_time;
	else if (!stat_field(v, 22, &ticks))
		return false;
	slept = (s64)(clock_ns(BOOTTIME) - clock_ns(MONOTONIC) + MS / 2) / MS * MS;
	*out = (u64)ticks * TICK - (boot ? 0 : (u64)slept);
	return true;
}

/* task->__state (include/linux/sched.h) by the letter of fs/proc/array.c. */
static bool state(const struct view *v, u64 *out)
{
	static const struct {
		char letter;
		u8 state;
	} rows[] = { { 'R', 0 }, { 'S', 1 },	{ 'D', 2 },   { 'T', 4 },
		     { 't', 8 }, { 'X', 0x80 }, { 'Z', 0x80 } };
	s64 letter = v->self ? 'R' : 0;

	if (!letter && !stat_field(v, 3, &letter))
		return false;
	for (u32 i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		if (rows[i].letter == letter) {
			*out = rows[i].state;
			return true;
		}
	return false;
}

static bool stat_number(const struct view *v, u32 n, s64 more, u64 *out)
{
	s64 value;

	if (!stat_field(v, n, &value))
		return false;
	*out = (u64)(value + more);
	return true;
}

static bool one_number(const struct view *v, const char *name, u64 *out)
{
	char text[24];
	long n = proc_read(v, name, text, sizeof(text));

	return n > 0 && number(text, n, 10, out);
}

/* The inode number of /proc/TID/ns/NAME is the namespace's. */
static bool inum(const struct view *v, const char *name, u64 *out)
{
	char path[64];
	u64 st[18]; /* struct stat of x86-64 */

	if (shim_names.foreign)
		return one_number(v, name, out);

	proc_path(path, v, name);
	if (shim_sys2(NR_STAT, path, st))
		return false;
	*out = st[1];
	return true;
}

/* struct upid[]: the numbers, from the session's namespace down; of the last namespace, which it is. */
static bool upids(const struct view *v, u64 *out)
{
	u32 level = shim_ask_level((struct shim_ctl *)v->run->ctl, v->tid, out);

	out[2 * level + 1] = address(SHIM_TASK_PID_NS, v->tid);
	return true;
}

static bool level(const struct view *v, u64 *out)
{
	u64 upid[2 * SHIM_UPIDS];

	*out = shim_ask_level((struct shim_ctl *)v->run->ctl, v->tid, upid);
	return true;
}

static bool nodename(const struct view *v, u8 *out)
{
	u8 names[6][NODENAME];

	if (!v->self || shim_sys1(NR_UNAME, names))
		return false;
	memcpy(out, names[1], NODENAME);
	return true;
}

static bool to(const struct view *v, u32 kind, u64 *out)
{
	*out = address(kind, v->tid);
	return true;
}

static bool task_field(const struct view *v, u32 field, u64 *out)
{
	switch (field) {
	case SHIM_FIELD_task_struct__pid: *out = v->tid; return true;
	case SHIM_FIELD_task_struct__tgid: return tgid(v, out);
	case SHIM_FIELD_task_struct__comm: return comm(v, (u8 *)out);
	case SHIM_FIELD_task_struct__real_parent: return parent(v, out);
	case SHIM_FIELD_task_struct__parent: return tracer(v, out);
	case SHIM_FIELD_task_struct__group_leader:
		if (!tgid(v, out))
			return false;
		*out = task_address((u32)*out);
		return true;
	case SHIM_FIELD_task_struct__exit_code:
		if (v->other)
			*out = (u64)(s64)v->other->exit_code;
		return v->self || v->other || stat_number(v, 52, 0, out);
	case SHIM_FIELD_task_struct__exit_signal: return stat_number(v, 38, 0, out);
	case SHIM_FIELD_task_struct__start_time: return start_time(v, false, out);
	case SHIM_FIELD_task_struct__start_boottime: return start_time(v, true, out);
	case SHIM_FIELD_task_struct__flags: return stat_number(v, 9, 0, out);
	case SHIM_FIELD_task_struct__state: return state(v, out);
	case SHIM_FIELD_task_struct__prio: return stat_number(v, 18, 100, out);
	case SHIM_FIELD_task_struct__static_prio: return stat_number(v, 19, 120, out);
	case SHIM_FIELD_task_struct__loginuid: return one_number(v, "loginuid", out);
	case SHIM_FIELD_task_struct__sessionid: return one_number(v, "sessionid", out);
	case SHIM_FIELD_task_struct__nsproxy: return to(v, SHIM_TASK_NSPROXY, out);
	case SHIM_FIELD_task_struct__cred:
	case SHIM_FIELD_task_struct__real_cred: return to(v, SHIM_TASK_CRED, out);
	case SHIM_FIELD_task_struct__thread_pid: return to(v, SHIM_TASK_PID, out);
	}
	return false;
}

static bool cred_field(const struct view *v, u32 field, u64 *out)
{
	switch (field) { /* real, effective, saved, file system */
	case SHIM_FIELD_cred__uid: return status(v, "\nUid:", 0, 10, out);
	case SHIM_FIELD_cred__euid: return status(v, "\nUid:", 1, 10, out);
	case SHIM_FIELD_cred__suid: return status(v, "\nUid:", 2, 10, out);
	case SHIM_FIELD_cred__fsuid: return status(v, "\nUid:", 3, 10, out);
	case SHIM_FIELD_cred__gid: return status(v, "\nGid:", 0, 10, out);
	case SHIM_FIELD_cred__egid: return status(v, "\nGid:", 1, 10, out);
	case SHIM_FIELD_cred__sgid: return status(v, "\nGid:", 2, 10, out);
	case SHIM_FIELD_cred__fsgid: return status(v, "\nGid:", 3, 10, out);
	case SHIM_FIELD_cred__cap_inheritable: return status(v, "\nCapInh:", 0, 16, out);
	case SHIM_FIELD_cred__cap_permitted: return status(v, "\nCapPrm:", 0, 16, out);
	case SHIM_FIELD_cred__cap_effective: return status(v, "\nCapEff:", 0, 16, out);
	case SHIM_FIELD_cred__user_ns: return to(v, SHIM_TASK_USER_NS, out);
	}
	return false;
}

static bool ns_field(const struct view *v, u32 field, u64 *out)
{
	switch (field) {
	case SHIM_FIELD_pid__level: return level(v, out);
	case SHIM_FIELD_pid__numbers: return upids(v, out);
	case SHIM_FIELD_nsproxy__mnt_ns: return to(v, SHIM_TASK_MNT_NS, out);
	case SHIM_FIELD_nsproxy__uts_ns: return to(v, SHIM_TASK_UTS_NS, out);
	case SHIM_FIELD_nsproxy__ipc_ns: return to(v, SHIM_TASK_IPC_NS, out);
	case SHIM_FIELD_nsproxy__net_ns: return to(v, SHIM_TASK_NET_NS, out);
	case SHIM_FIELD_nsproxy__cgroup_ns: return to(v, SHIM_TASK_CGROUP_NS, out);
	case SHIM_FIELD_nsproxy__time_ns: return to(v, SHIM_TASK_TIME_NS, out);
	case SHIM_FIELD_nsproxy__pid_ns_for_children: return to(v, SHIM_TASK_PID_NS_CHILDREN, out);
	case SHIM_FIELD_mnt_namespace__ns__inum: return inum(v, "ns/mnt", out);
	case SHIM_FIELD_uts_namespace__ns__inum: return inum(v, "ns/uts", out);
	case SHIM_FIELD_ipc_namespace__ns__inum: return inum(v, "ns/ipc", out);
	case SHIM_FIELD_pid_namespace__ns__inum:
		return inum(v, v->kind == SHIM_TASK_PID_NS ? "ns/pid" : "ns/pid_for_children", out);
	case SHIM_FIELD_net__ns__inum: return inum(v, "ns/net", out);
	case SHIM_FIELD_cgroup_namespace__ns__inum: return inum(v, "ns/cgroup", out);
	case SHIM_FIELD_time_namespace__ns__inum: return inum(v, "ns/time", out);
	case SHIM_FIELD_user_namespace__ns__inum: return inum(v, "ns/user", out);
	case SHIM_FIELD_uts_namespace__name__nodename: return nodename(v, (u8 *)out);
	}
	return false;
}

/* The fields of each structure: from and to, both in it. */
static const struct {
	u8 first, last;
	bool (*value)(const struct view *v, u32 field, u64 *out);
} kinds[1 << SHIM_TASK_KIND_BITS] = {
	[SHIM_TASK_TASK] = { SHIM_FIELD_task_struct__pid, SHIM_FIELD_task_struct__thread_pid,
			     task_field },
	[SHIM_TASK_CRED] = { SHIM_FIELD_cred__uid, SHIM_FIELD_cred__user_ns, cred_field },
	[SHIM_TASK_PID] = { SHIM_FIELD_pid__level, SHIM_FIELD_pid__numbers, ns_field },
	[SHIM_TASK_NSPROXY] = { SHIM_FIELD_nsproxy__mnt_ns, SHIM_FIELD_nsproxy__pid_ns_for_children,
				ns_field },
	[SHIM_TASK_MNT_NS] = { SHIM_FIELD_mnt_namespace__ns__inum, SHIM_FIELD_mnt_namespace__ns__inum,
			       ns_field },
	[SHIM_TASK_UTS_NS] = { SHIM_FIELD_uts_namespace__ns__inum,
			       SHIM_FIELD_uts_namespace__name__nodename, ns_field },
	[SHIM_TASK_IPC_NS] = { SHIM_FIELD_ipc_namespace__ns__inum, SHIM_FIELD_ipc_namespace__ns__inum,
			       ns_field },
	[SHIM_TASK_PID_NS] = { SHIM_FIELD_pid_namespace__ns__inum, SHIM_FIELD_pid_namespace__ns__inum,
			       ns_field },
	[SHIM_TASK_PID_NS_CHILDREN] = { SHIM_FIELD_pid_namespace__ns__inum,
					SHIM_FIELD_pid_namespace__ns__inum, ns_field },
	[SHIM_TASK_NET_NS] = { SHIM_FIELD_net__ns__inum, SHIM_FIELD_net__ns__inum, ns_field },
	[SHIM_TASK_CGROUP_NS] = { SHIM_FIELD_cgroup_namespace__ns__inum,
				  SHIM_FIELD_cgroup_namespace__ns__inum, ns_field },
	[SHIM_TASK_TIME_NS] = { SHIM_FIELD_time_namespace__ns__inum,
				SHIM_FIELD_time_namespace__ns__inum, ns_field },
	[SHIM_TASK_USER_NS] = { SHIM_FIELD_user_namespace__ns__inum,
				SHIM_FIELD_user_namespace__ns__inum, ns_field },
};

/* The bytes of one field that lie in [off, off + len) of the structure, if it has any there. */
static bool put_field(const struct view *v, u32 field, u8 *dst, u64 len)
{
	const struct shim_ctl *ctl = (const struct shim_ctl *)v->run->ctl;
	u32 off = READ_ONCE(ctl->task[field].off), size = READ_ONCE(ctl->task[field].len);
	u64 value[(NODENAME + 7) / 8] = { 0 }, from, end;

	if (field == SHIM_FIELD_pid__numbers && shim_names.foreign)
		size = SHIM_UPIDS * 16;
	if (size > sizeof(value))
		size = sizeof(value);
	from = off > v->off ? off : v->off;
	end = off + size < v->off + len ? off + size : v->off + len;
	if (from >= end || !kinds[v->kind].value(v, field, value))
		return false;
	memcpy(dst + (from - v->off), (u8 *)value + (from - off), end - from);
	return true;
}

long task_read(const struct shim_run *run, void *dst, u64 addr, u64 len)
{
	struct view v;
	bool any = false;

	memset(dst, 0, len);
	if (!len)
		return 0;
	if (!run->ctl || !view_of(addr, run, &v) || !kinds[v.kind].value)
		return -EFAULT;
	for (u32 field = kinds[v.kind].first; field <= kinds[v.kind].last; field++)
		any |= put_field(&v, field, dst, len);
	return any ? 0 : -EFAULT;
}

long task_strncpy(const struct shim_run *run, void *dst, u64 addr, u64 size)
{
	u8 text[NODENAME + 1];
	u64 n = size < sizeof(text) ? size : sizeof(text), len = 0;

	if (task_read(run, text, addr, n))
		return -EFAULT;
	while (len < n && text[len])
		len++;
	len += len < n;
	memcpy(dst, text, len);
	return (long)len;
}
