/*
 * signal_generate: before a call that sends signals, for each process or thread that it will reach,
 * which the same call without a signal (number 0) says, with the result that the kernel would come
 * to (kernel/signal.c: sig_ignored, legacy_queue); and at the end of a process for the signal that
 * its parent gets (do_notify_parent). Of the kernel's own signals (faults, timers, terminals) those by
 * which a process has ended are told of when that is seen (attach/ends.py); others, and those of processes
 * without an agent, nobody here sees.
 */
#include "proc.h"

enum {
	NR_KILL = 62,
	NR_RT_SIGQUEUEINFO = 129,
	NR_TKILL = 200,
	NR_RT_TGSIGQUEUEINFO = 297,
	NR_PIDFD_SEND_SIGNAL = 424,
	NR_GETPGID = 121,
	SI_TKILL = -6,
	SI_KERNEL = 0x80,
	CLD_EXITED = 1,
	CLD_KILLED = 2,
	CLD_DUMPED = 3,
	SIGKILL_ = 9,
	SIGPIPE_ = 13,
	SIGCHLD_ = 17,
	SIGCONT_ = 18,
	SIGURG_ = 23,
	SIGXFSZ_ = 25,
	SIGWINCH_ = 28,
	SIGRTMIN_ = 32,
	LAST_SIGNAL = 64,
	DELIVERED = 0, /* TRACE_SIGNAL_* */
	IGNORED = 1,
	PENDING = 2,
	UNKNOWN = -1, /* no such process: nothing is sent */
};

struct record {
	struct proc_head head;
	s32 sig, errno_, code;
	char comm[16];
	s32 pid, group, result;
};
SHIM_ASSERT(sizeof(struct record) == 48);

/* What /proc/TID/status says of signals. */
struct masks {
	u64 blocked, ignored, caught, own, shared;
	u32 traced, dying;
};

static int starts(const char **line, const char *name)
{
	const char *at = *line;

	for (; *name; name++, at++)
		if (*name != *at)
			return 0;
	while (*at == '\t' || *at == ' ')
		at++;
	*line = at;
	return 1;
}

static int masks_of(u32 tid, struct masks *m)
{
	struct proc_file f;
	char text[96];
	u32 found = 0;

	agent_zero(m, sizeof(*m));
	proc_open(&f, tid, "/status");
	while (proc_line(&f, text, sizeof(text)) >= 0) {
		const char *line = text;

		if (starts(&line, "State:"))
			m->dying = *line == 'Z' || *line == 'X';
		else if (starts(&line, "TracerPid:"))
			m->traced = (u32)proc_number(&line, 10);
		else if (starts(&line, "SigPnd:"))
			m->own = proc_number(&line, 16);
		else if (starts(&line, "ShdPnd:"))
			m->shared = proc_number(&line, 16);
		else if (starts(&line, "SigBlk:"))
			m->blocked = proc_number(&line, 16);
		else if (starts(&line, "SigIgn:"))
			m->ignored = proc_number(&line, 16);
		else if (starts(&line, "SigCgt:"))
			m->caught = proc_number(&line, 16), found = 1;
	}
	proc_close(&f);
	return (int)found;
}

static int ignored_by_default(u32 sig)
{
	return sig == SIGCHLD_ || sig == SIGCONT_ || sig == SIGURG_ || sig == SIGWINCH_;
}

static s32 result_of(u32 tid, u32 sig, u32 group)
{
	u64 bit = 1ull << (sig - 1);
	struct masks m;

	if (!masks_of(tid, &m))
		return UNKNOWN;
	if (m.dying)
		return IGNORED;
	if (!(m.blocked & bit) && (!m.traced || sig == SIGKILL_) &&
	    ((m.ignored & bit) || (!(m.caught & bit) && ignored_by_default(sig))))
		return IGNORED;
	if (sig < SIGRTMIN_ && (group ? m.shared : m.own) & bit)
		return PENDING;
	return DELIVERED;
}

/* as: in whose name; NULL: this thread's. r->pid: the sessions' number. */
static void generate(struct shim_thread *t, struct shim_stand_in *as, u32 session, struct record *r)
{
	r->result = result_of((u32)r->pid, (u32)r->sig, (u32)r->group);
	if (r->result == UNKNOWN)
		return;
	proc_head(&r->head, SHIM_EVENT_SIGNAL, as ? as->thread.tid : t->tid);
	proc_comm((u32)r->pid, r->comm);
	if (as)
		agent_run_event_as(SHIM_EVENT_SIGNAL, r, as, session);
	else
		agent_run_event(SHIM_EVENT_SIGNAL, r, NULL);
}

/* The process has not been ended by the kernel, should it end by this signal. */
static void note(u32 pid, s32 sig)
{
	for (u32 i = 0; i < shim_agent_root.nr_sessions; i++) {
		struct shim_session *session = &shim_agent_root.sessions[i];
		struct shim_ctl *ctl = (struct shim_ctl *)session->ctl;

		for (u32 n = 1; session->id && ctl && n < SHIM_MAX_SLOTS; n++)
			if (agent_load(&ctl->slot[n].pid) == pid)
				agent_store(&ctl->slot[n].note, (u32)sig);
	}
}

struct dirent64 {
	u64 ino;
	s64 off;
	u16 reclen;
	u8 type;
	char name[];
};

/* kill(2) of a process group (0: the own one), or of all that may be. */
static void many(struct shim_thread *t, s32 which, struct record *r)
{
	char buf[512] __attribute__((aligned(8)));
	long fd = shim_sys3(NR_OPEN, "/proc", O_DIRECTORY_ | O_CLOEXEC_, 0), len;
	long group = which == 0 ? shim_sys1(NR_GETPGID, 0) : -(long)which;

	if (fd < 0)
		return;
	while ((len = shim_sys3(NR_GETDENTS64, fd, buf, sizeof(buf))) > 0)
		for (long at = 0; at < len; at += ((struct dirent64 *)(buf + at))->reclen) {
			const char *name = ((struct dirent64 *)(buf + at))->name;
			u32 pid = (u32)proc_number(&name, 10);

			if (!pid || (which == -1 ? pid == 1 || pid == t->tgid
						 : shim_sys1(NR_GETPGID, pid) != group))
				continue;
			if (shim_sys2(NR_KILL, pid, 0))
				continue;
			r->pid = (s32)agent_seen(t, pid);
			note((u32)r->pid, r->sig);
			generate(t, NULL, SHIM_MAX_SESSIONS, r);
		}
	shim_sys1(NR_CLOSE, fd);
}

/* Whom a pidfd means; 0: it is none. */
static u32 pid_of(u32 fd)
{
	struct proc_file f;
	char text[64];
	u32 pid = 0, at = 0;

	agent_append(text, sizeof(text), &at, "/fdinfo/");
	agent_append_number(text, sizeof(text), &at, fd);
	proc_open_self(&f, text);
	while (proc_line(&f, text, sizeof(text)) >= 0) {
		const char *line = text;

		if (starts(&line, "Pid:"))
			pid = (u32)proc_number(&line, 10);
	}
	proc_close(&f);
	return pid;
}

/* si_errno and si_code of what the caller gives. */
static void info_of(u64 info, struct record *r)
{
	s32 words[3];

	if (info && !shim_copy_from(words, info, sizeof(words))) {
		r->errno_ = words[1];
		r->code = words[2];
	}
}

int signals_sender(u32 nr)
{
	return nr == NR_KILL || nr == NR_TKILL || nr == NR_TGKILL || nr == NR_RT_SIGQUEUEINFO ||
	       nr == NR_RT_TGSIGQUEUEINFO || nr == NR_PIDFD_SEND_SIGNAL;
}

void signals_sent(struct shim_thread *t, u32 nr, const struct shim_pt_regs *regs)
{
	u64 sig = nr == NR_TGKILL || nr == NR_RT_TGSIGQUEUEINFO ? regs->dx : regs->si;
	struct record r;
	long allowed;

	if (!(u32)sig || (u32)sig > LAST_SIGNAL)
		return;
	agent_zero(&r, sizeof(r));
	r.sig = (s32)sig;
	r.pid = (s32)regs->di;
	switch (nr) {
	case NR_KILL:
		r.group = 1;
		if (r.pid <= 0) {
			many(t, r.pid, &r);
			return;
		}
		allowed = shim_sys2(NR_KILL, r.pid, 0);
		break;
	case NR_TKILL:
		r.code = SI_TKILL;
		allowed = shim_sys2(NR_TKILL, r.pid, 0);
		break;
	case NR_TGKILL:
		r.code = SI_TKILL;
		r.pid = (s32)regs->si;
		allowed = shim_sys3(NR_TGKILL, regs->di, r.pid, 0);
		break;
	case NR_RT_SIGQUEUEINFO:
		r.group = 1;
		info_of(regs->dx, &r);
		allowed = shim_sys3(NR_RT_SIGQUEUEINFO, r.pid, 0, regs->dx);
		break;
	case NR_RT_TGSIGQUEUEINFO:
		r.pid = (s32)regs->si;
		info_of(regs->r10, &r);
		allowed = shim_sys4(NR_RT_TGSIGQUEUEINFO, regs->di, r.pid, 0, regs->r10);
		break;
	default: /* pidfd_send_signal; flags may name a thread or a group: as the kernel's default */
		r.group = 1;
		info_of(regs->dx, &r);
		r.pid = (s32)pid_of((u32)regs->di);
		allowed = r.pid ? shim_sys4(NR_PIDFD_SEND_SIGNAL, regs->di, 0, 0, 0) : -1;
	}
	r.pid = allowed ? 0 : (s32)agent_seen(t, (u32)r.pid);
	if (r.pid)
		note(nr == NR_TGKILL || nr == NR_RT_TGSIGQUEUEINFO ? agent_seen(t, (u32)regs->di)
								   : (u32)r.pid,
		     r.sig);
	if (r.pid)
		generate(t, NULL, SHIM_MAX_SESSIONS, &r);
}

void signals_end(struct shim_stand_in *leader, s32 exit_signal, u32 session)
{
	u32 killed = (u32)leader->exit_code & 0x7f, parent = leader->parent;
	struct masks m;
	struct record r;

	if (!agent_event_wanted(SHIM_EVENT_SIGNAL) || !parent || exit_signal <= 0 ||
	    exit_signal > LAST_SIGNAL || !masks_of(parent, &m))
		return;
	if (exit_signal == SIGCHLD_ && m.ignored & 1ull << (SIGCHLD_ - 1))
		return; /* nobody waits, nobody is told */
	agent_zero(&r, sizeof(r));
	r.sig = exit_signal;
	r.code = !killed ? CLD_EXITED : leader->exit_code & 0x80 ? CLD_DUMPED : CLD_KILLED;
	r.pid = (s32)parent;
	r.group = 1;
	generate(NULL, leader, session, &r);
}

void signals_own(struct shim_stand_in *leader, u32 sig, u32 session)
{
	struct record r;

	if (!agent_event_wanted(SHIM_EVENT_SIGNAL))
		return;
	agent_zero(&r, sizeof(r));
	r.sig = (s32)sig;
	r.code = sig == SIGPIPE_ || sig == SIGXFSZ_ ? 0 : SI_KERNEL; /* a fault's own is not known */
	agent_copy(r.comm, leader->comm, sizeof(r.comm));
	r.pid = (s32)leader->thread.tid;
	proc_head(&r.head, SHIM_EVENT_SIGNAL, leader->thread.tid);
	agent_run_event_as(SHIM_EVENT_SIGNAL, &r, leader, session);
}
