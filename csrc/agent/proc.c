/*
 * Tracepoints of processes, as far as a process can tell of them: sched_process_fork in the parent
 * when the call has returned, sched_process_exec when the new image has its agent, sched_process_exit
 * before the call that ends a thread or all of them. Threads that a group's exit ends come to no
 * instruction any more: the one that ends them runs the programs in their names. Processes that a
 * signal ends are the backend's to tell of (attach/ends.py); it is told which have told themselves.
 * Records: events/sched/.../format of tracefs.
 */
#include "proc.h"
#include "sys.h"

enum {
	NR_CLONE = 56,
	NR_FORK = 57,
	NR_VFORK = 58,
	NR_EXIT = 60,
	NR_GETGID = 104,
	NR_EXIT_GROUP = 231,
	NR_CLONE3 = 435,
	PR_GET_NAME_ = 16,
	COMM = 16,
	PRIO_BASE = 100,
	FILE_NAME = 512,
};

struct fork_record {
	struct proc_head head;
	u32 parent_comm;
	s32 parent;
	u32 child_comm;
	s32 child;
	char comms[2][COMM];
};
SHIM_ASSERT(offsetof(struct fork_record, comms) == 24);

struct exec_record {
	struct proc_head head;
	u32 filename;
	s32 pid, old_pid;
	char text[FILE_NAME];
};
SHIM_ASSERT(offsetof(struct exec_record, text) == 20);

struct exit_record {
	struct proc_head head;
	char comm[COMM];
	s32 pid, prio;
	u8 group_dead;
	u8 pad[7];
};
SHIM_ASSERT(offsetof(struct exit_record, group_dead) == 32);

void proc_head(struct proc_head *h, u32 event, u32 tid)
{
	u32 index = agent_load(&shim_agent_root.event_site[event]);

	h->type = index ? (u16)agent_sites()[(index - 1) % SHIM_MAX_SITES].func : 0;
	h->flags = h->preempt_count = 0;
	h->pid = (s32)tid;
}

/* ---- /proc ---- */

static void open_in(struct proc_file *f, const char *folder, u32 number, const char *name)
{
	char path[64];
	u32 at = 0;

	agent_append(path, sizeof(path), &at, folder);
	if (number)
		agent_append_number(path, sizeof(path), &at, number);
	agent_append(path, sizeof(path), &at, name);
	f->fd = shim_sys3(NR_OPEN, path, O_CLOEXEC_, 0);
	f->at = f->n = 0;
	f->ask = NULL;
	f->t = NULL;
}

/* As the backend sees it. */
static void open_asked(struct proc_file *f, u32 tid, const char *name)
{
	struct shim_thread *t = agent_thread_asked();
	struct shim_ctl *ctl = t ? agent_names_begin(t, &f->made) : NULL;

	f->fd = -1;
	f->at = f->n = f->read = 0;
	f->t = t;
	f->ask = ctl ? shim_ask_open(ctl, tid, name + 1) : NULL;
}

void proc_open(struct proc_file *f, u32 tid, const char *name)
{
	if (shim_names.foreign)
		open_asked(f, tid, name);
	else
		open_in(f, "/proc/", tid, name);
}

void proc_open_self(struct proc_file *f, const char *name)
{
	open_in(f, "/proc/self", 0, name);
}

void proc_open_thread(struct proc_file *f, const char *name)
{
	open_in(f, "/proc/thread-self", 0, name);
}

void proc_open_task(struct proc_file *f, u32 entry, const char *name)
{
	open_in(f, "/proc/self/task/", entry, name);
}

void proc_close(struct proc_file *f)
{
	if (f->fd >= 0)
		shim_sys1(NR_CLOSE, f->fd);
	if (f->ask)
		shim_ask_close(f->ask);
	if (f->t)
		agent_names_end(f->t, f->made);
}

/* More of it into f->buf; how much. */
static long fetch(struct proc_file *f)
{
	u32 len = sizeof(f->buf), rest;

	if (!f->ask)
		return f->fd < 0 ? 0 : shim_sys3(NR_READ, f->fd, f->buf, sizeof(f->buf));
	rest = (u32)f->ask->answer > f->read ? (u32)f->ask->answer - f->read : 0;
	len = rest < len ? rest : len;
	agent_copy(f->buf, f->ask->text + f->read % sizeof(f->ask->text), len);
	f->read += len;
	return len;
}

int proc_line(struct proc_file *f, char *line, u32 room)
{
	u32 n = 0;

	for (;;) {
		if (f->at == f->n) {
			long got = fetch(f);

			if (got <= 0)
				break;
			f->at = 0;
			f->n = (u32)got;
		}
		if (f->buf[f->at++] == '\n') {
			line[n] = 0;
			return (int)n;
		}
		if (n + 1 < room)
			line[n++] = f->buf[f->at - 1];
	}
	line[n] = 0;
	return n ? (int)n : -1;
}

u64 proc_number(const char **text, u32 base)
{
	u64 value = 0;

	for (;; ++*text) {
		u32 c = (u8) * *text, digit = c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10;

		if (digit >= base)
			return value;
		value = value * base + digit;
	}
}

int proc_stat(u32 tid, struct proc_stat *out)
{
	struct proc_file f;
	char line[448], *end;
	const char *at;
	int n;

	proc_open(&f, tid, "/stat");
	n = proc_line(&f, line, sizeof(line));
	proc_close(&f);
	for (end = line + (n < 0 ? 0 : n); end > line && *end != ')'; end--)
		;
	if (end == line)
		return 0;
	out->state = end[2];
	at = end + 3;
	out->exit_signal = 17; /* SIGCHLD */
	for (u32 field = 4; *at == ' ' && field <= 38; field++) {
		s64 sign = *++at == '-' ? -1 : 1, value;

		at += sign < 0;
		value = sign * (s64)proc_number(&at, 10);
		if (field == 4)
			out->parent = (s32)value;
		else if (field == 18)
			out->prio = (s32)value + PRIO_BASE;
		else if (field == 22)
			out->start = (u64)value;
		else if (field == 38)
			out->exit_signal = (s32)value;
	}
	return 1;
}

void proc_comm(u32 tid, char comm[16])
{
	struct proc_file f;

	agent_zero(comm, COMM);
	proc_open(&f, tid, "/comm");
	proc_line(&f, comm, COMM);
	proc_close(&f);
}

/* ---- fork, exec ---- */

static u32 text_at(u32 off, const char *text)
{
	u32 n = 1;

	while (text[n - 1])
		n++;
	return n << 16 | off;
}

static void forked(struct shim_thread *t, u32 child)
{
	struct fork_record r;

	agent_zero(&r, sizeof(r));
	proc_head(&r.head, SHIM_EVENT_SCHED_FORK, t->tid);
	shim_sys2(NR_PRCTL, PR_GET_NAME_, r.comms[0]);
	agent_copy(r.comms[1], r.comms[0], COMM); /* as it was when it was made */
	r.parent_comm = text_at(offsetof(struct fork_record, comms), r.comms[0]);
	r.child_comm = text_at(offsetof(struct fork_record, comms) + COMM, r.comms[1]);
	r.parent = (s32)t->tid;
	r.child = (s32)agent_seen(t, child);
	agent_run_event(SHIM_EVENT_SCHED_FORK, &r, NULL);
}

void agent_proc_exec(const char *file)
{
	struct shim_thread *t;
	struct exec_record r;
	u32 at = 0;

	if (!agent_load(&agent_private.ready) || !agent_event_wanted(SHIM_EVENT_SCHED_EXEC))
		return;
	t = agent_thread();
	if (!t)
		return;
	agent_zero(&r, sizeof(r));
	proc_head(&r.head, SHIM_EVENT_SCHED_EXEC, t->tid);
	agent_append(r.text, sizeof(r.text) - 1, &at, file ? file : "");
	r.filename = text_at(offsetof(struct exec_record, text), r.text);
	r.pid = r.old_pid = (s32)t->tid;
	agent_run_event(SHIM_EVENT_SCHED_EXEC, &r, NULL);
}

/* In a program that has not made a step yet: its own name for itself. */
long agent_proc_begun(void)
{
	enum { AT_EXECFN_ = 31, PAIRS = 64 };
	u64 pair[2] = { 0, 0 };
	char name[FILE_NAME] = "";
	long fd = shim_sys3(NR_OPEN, "/proc/self/auxv", O_CLOEXEC_, 0);

	for (u32 i = 0; fd >= 0 && i < PAIRS && pair[0] != AT_EXECFN_; i++)
		if (shim_sys3(NR_READ, fd, pair, sizeof(pair)) != sizeof(pair))
			break;
	if (fd >= 0)
		shim_sys1(NR_CLOSE, fd);
	if (pair[0] == AT_EXECFN_ && shim_strncpy_from(name, pair[1], sizeof(name) - 1) < 0)
		name[0] = 0;
	agent_proc_exec(name);
	agent_exec_done();
	return 0;
}

/* ---- exit ---- */

static void stand_in(struct shim_stand_in *as, u32 tid, u32 tgid, s32 code, const struct proc_stat *st)
{
	struct shim_thread *self = agent_thread();

	agent_zero(as, sizeof(*as));
	as->thread.tid = tid;
	as->thread.tgid = tgid;
	if (self && tid == self->tid)
		shim_sys2(NR_PRCTL, PR_GET_NAME_, as->comm);
	else
		proc_comm(tid, as->comm);
	as->parent = shim_names.foreign ? (u32)st->parent : (u32)shim_sys0(NR_GETPPID);
	as->exit_code = code;
	as->start_time = st->start;
	as->uid = (u32)shim_sys0(NR_GETUID);
	as->gid = (u32)shim_sys0(NR_GETGID);
}

static void run_exit(struct shim_stand_in *as, s32 prio, u32 last, u32 session)
{
	struct exit_record r;

	agent_zero(&r, sizeof(r));
	proc_head(&r.head, SHIM_EVENT_SCHED_EXIT, as->thread.tid);
	agent_copy(r.comm, as->comm, COMM);
	r.pid = (s32)as->thread.tid;
	r.prio = prio;
	r.group_dead = (u8)last;
	agent_run_event_as(SHIM_EVENT_SCHED_EXIT, &r, as, session);
}

static void thread_ends(u32 tid, u32 tgid, s32 code, u32 last)
{
	struct shim_stand_in as;
	struct proc_stat st;

	if (!proc_stat(tid, &st) || st.state == 'Z' || st.state == 'X') /* it has ended before */
		return;
	stand_in(&as, tid, tgid, code, &st);
	run_exit(&as, st.prio, last, SHIM_MAX_SESSIONS);
}

/* The thread may stand anywhere, on whatever stack: what it is in the middle of is not over. */
long agent_proc_ended(struct shim_agent_ended *msg)
{
	struct shim_thread *t = agent_thread();

	if (!t || agent_load(&t->guard_sp))
		return -E_BUSY;
	msg->as.comm[COMM - 1] = 0;
	if (msg->own)
		signals_own(&msg->as, msg->own, msg->session);
	run_exit(&msg->as, msg->prio, 1, msg->session);
	signals_end(&msg->as, msg->exit_signal, msg->session);
	return 0;
}

struct dirent64 {
	u64 ino;
	s64 off;
	u16 reclen;
	u8 type;
	char name[];
};

/* For each thread of the process but `self` that has not ended: how many; with `code`, their ends are told. */
static u32 others(struct shim_thread *self, const s32 *code)
{
	char buf[512] __attribute__((aligned(8)));
	long fd = shim_sys3(NR_OPEN, "/proc/self/task", O_DIRECTORY_ | O_CLOEXEC_, 0), len;
	struct proc_stat st;
	u32 count = 0;

	if (fd < 0)
		return 0;
	while ((len = shim_sys3(NR_GETDENTS64, fd, buf, sizeof(buf))) > 0)
		for (long at = 0; at < len; at += ((struct dirent64 *)(buf + at))->reclen) {
			const char *name = ((struct dirent64 *)(buf + at))->name;
			u32 tid = agent_seen(self, agent_task_own((u32)proc_number(&name, 10)));

			if (!tid || tid == self->tid || !proc_stat(tid, &st) || st.state == 'Z')
				continue;
			count++;
			if (code)
				thread_ends(tid, self->tgid, *code, 0);
		}
	shim_sys1(NR_CLOSE, fd);
	return count;
}

/* The backend need not tell of this process's end. Not by a vfork child, whose slots are its parent's. */
static void told(u32 tgid)
{
	for (u32 i = 0; i < shim_agent_root.nr_sessions && tgid == agent_seen_pid(); i++) {
		struct shim_session *session = &shim_agent_root.sessions[i];
		struct shim_ctl *ctl = (struct shim_ctl *)session->ctl;

		if (session->id && ctl && session->owner)
			agent_store(&ctl->slot[session->owner >> SHIM_OWNER_SLOT_SHIFT].told, 1u);
	}
}

static void ends(struct shim_thread *t, u32 nr, s32 status)
{
	s32 code = (status & 0xff) << 8;
	struct shim_stand_in leader;
	struct proc_stat st;
	u32 all = nr == NR_EXIT_GROUP, last = all || !others(t, NULL);

	if (agent_event_wanted(SHIM_EVENT_SCHED_EXIT)) {
		if (all)
			others(t, &code);
		thread_ends(t->tid, t->tgid, code, last);
	}
	if (!last)
		return;
	told(t->tgid);
	if (agent_event_wanted(SHIM_EVENT_SIGNAL) && proc_stat(t->tgid, &st)) {
		stand_in(&leader, t->tgid, t->tgid, code, &st);
		signals_end(&leader, st.exit_signal, SHIM_MAX_SESSIONS);
	}
}

/* ---- births ---- */

/* Is one of these events attached to in that session? */
static int session_wants(u32 event, u32 session)
{
	u32 index = agent_load(&shim_agent_root.event_site[event]);
	u32 at = index ? agent_load(&agent_sites()[(index - 1) % SHIM_MAX_SITES].first) : 0;

	for (u32 n = 0; at && n < SHIM_MAX_SITE_LINKS; n++) {
		struct shim_site_link *link = &agent_links()[(at - 1) % SHIM_MAX_SITE_LINKS];

		if (agent_load(&link->live) && link->session == session)
			return 1;
		at = agent_load(&link->next);
	}
	return 0;
}

/* In a child. Who is killed cannot tell, so it goes on when the backend has seen that it is there. One
 * that does not look for two seconds is not waited for again until it does. */
static void born(void)
{
	struct {
		s64 sec, nsec;
	} patience = { 0, 5000000 };
	enum { TRIES = 400, FUTEX_WAIT_ = 0 };

	for (u32 i = 0; i < shim_agent_root.nr_sessions; i++) {
		struct shim_session *session = &shim_agent_root.sessions[i];
		struct shim_ctl *ctl = (struct shim_ctl *)session->ctl;
		struct shim_slot *slot;

		if (!session->id || !ctl || !session->owner ||
		    !(session_wants(SHIM_EVENT_SCHED_EXIT, i) || session_wants(SHIM_EVENT_SIGNAL, i)))
			continue;
		slot = &ctl->slot[(session->owner >> SHIM_OWNER_SLOT_SHIFT) % SHIM_MAX_SLOTS];
		for (u32 n = 0; !agent_load(&slot->seen) && !agent_load(&ctl->slot[0].note); n++) {
			if (agent_load(&ctl->backend_lock[0]) & SHIM_BACKEND_DEAD)
				break;
			if (n == TRIES)
				agent_store(&ctl->slot[0].note, 1u);
			shim_sys4(NR_FUTEX, &slot->seen, FUTEX_WAIT_, 0, &patience);
		}
	}
}

/* ---- from the system calls ---- */

static int is_clone(u32 nr)
{
	return nr == NR_CLONE || nr == NR_CLONE3 || nr == NR_FORK || nr == NR_VFORK;
}

static int is_exit(u32 nr)
{
	return nr == NR_EXIT || nr == NR_EXIT_GROUP;
}

int agent_proc_wants(u32 nr)
{
	if (is_clone(nr))
		return agent_event_wanted(SHIM_EVENT_SCHED_FORK);
	if (is_exit(nr))
		return agent_event_wanted(SHIM_EVENT_SCHED_EXIT) ||
		       agent_event_wanted(SHIM_EVENT_SIGNAL);
	return signals_sender(nr) && agent_event_wanted(SHIM_EVENT_SIGNAL);
}

void agent_proc_enter(struct shim_thread *t, u32 nr, const struct shim_pt_regs *regs)
{
	if (!agent_proc_wants(nr))
		return;
	if (is_exit(nr))
		ends(t, nr, (s32)regs->di);
	else if (!is_clone(nr))
		signals_sent(t, nr, regs);
}

void agent_proc_exit(struct shim_thread *t, u32 nr, const struct shim_pt_regs *regs)
{
	if (!is_clone(nr))
		return;
	if (!regs->ax &&
	    (agent_event_wanted(SHIM_EVENT_SCHED_EXIT) || agent_event_wanted(SHIM_EVENT_SIGNAL)))
		born();
	if ((s64)regs->ax > 0 && agent_proc_wants(nr))
		forked(t, (u32)regs->ax);
}
