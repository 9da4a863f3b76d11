/*
 * The sessions' numbers of this process and its threads, where it lives in a namespace of process
 * numbers of its own (shim_names.h). The backend is asked for them (csrc/runtime/ask.c): of a thread
 * once, at its first hit; of a fork child at its first hit too, which is when it finds out who it is.
 *
 * The control page is read under a guard, as by any run, so that no session ends meanwhile.
 */
#include "keys.h"
#include "hit.h"

/* A block's own number, and since which change of view the others hold; all 0 where none was. */
static struct {
	u32 tid;
	u32 view;
} own[AGENT_THREADS];
static u32 views; /* how often another kind of numbers was agreed on */

static u32 index_of(const struct shim_thread *t)
{
	return (u32)(t - agent_threads()) % AGENT_THREADS;
}

u32 agent_own_tid(const struct shim_thread *t)
{
	return views ? own[index_of(t)].tid : t->tid;
}

u32 agent_own_tgid(const struct shim_thread *t)
{
	return shim_names.foreign ? (u32)shim_sys0(NR_GETPID) : t->tgid;
}

int agent_names_hold(const struct shim_thread *t)
{
	return !views || (own[index_of(t)].view == views && t->tid);
}

u32 agent_seen_pid(void)
{
	return shim_names.foreign ? shim_names.pid : shim_agent_root.pid;
}

static struct shim_ctl *some_ctl(void)
{
	struct shim_agent *root = &shim_agent_root;

	for (u32 i = 0; i < root->nr_sessions; i++) {
		struct shim_ctl *ctl = (struct shim_ctl *)root->sessions[i].ctl;

		if (agent_load(&root->sessions[i].id) && ctl && !agent_shut(i) &&
		    !(agent_load(&ctl->backend_lock[0]) & SHIM_BACKEND_DEAD))
			return ctl;
	}
	return NULL;
}

struct shim_ctl *agent_names_begin(struct shim_thread *t, u32 *made)
{
	*made = !agent_load(&t->guard_sp);
	if (*made) {
		agent_store(&t->guard_sp, agent_app_sp((u64)__builtin_frame_address(0)));
		agent_guard_order();
	}
	return some_ctl();
}

void agent_names_end(struct shim_thread *t, u32 made)
{
	if (made)
		agent_store(&t->guard_sp, 0ull);
}

static long asked(struct shim_thread *t, u32 what, u32 pid, u32 number)
{
	u32 made;
	struct shim_ctl *ctl = agent_names_begin(t, &made);
	long ret = ctl && pid ? shim_ask(ctl, what, pid, number, NULL) : -E_SRCH;

	agent_names_end(t, made);
	return ret;
}

u32 agent_seen(struct shim_thread *t, u32 number)
{
	long ret;

	if (!shim_names.foreign)
		return number;
	if (number == agent_own_tid(t))
		return t->tid;
	if (number == shim_agent_root.pid)
		return shim_names.pid;
	ret = asked(t, SHIM_ASK_OTHER, shim_names.pid, number);
	return ret > 0 ? (u32)ret : 0;
}

/* Of a vfork child the process is another one than the root's. */
static long foreign_numbers(struct shim_thread *t, u32 tid, u32 *seen, u32 *process)
{
	u32 pid = (u32)shim_sys0(NR_GETPID);
	long ret = shim_names.pid;

	if (pid != shim_agent_root.pid)
		ret = asked(t, SHIM_ASK_CHILD, shim_names.pid, pid);
	*process = (u32)ret;
	if (ret > 0 && tid != pid)
		ret = asked(t, SHIM_ASK_THREAD, *process, tid);
	*seen = (u32)ret;
	return ret > 0 ? 0 : -E_BUSY;
}

long agent_names_fill(struct shim_thread *t, u32 tid)
{
	u32 view = views, seen = tid, process = 0;
	long ret = 0;

	if (views) {
		agent_store(&own[index_of(t)].view, 0u);
		own[index_of(t)].tid = tid;
		t->guard_sp = t->outer_sp = 0; /* of whoever had the block before */
	}
	if (shim_names.foreign)
		ret = foreign_numbers(t, tid, &seen, &process);
	else
		process = (u32)shim_sys0(NR_GETPID);
	t->tid = ret ? 0 : seen;
	t->tgid = ret ? 0 : process;
	if (views && !ret)
		agent_store(&own[index_of(t)].view, view);
	return ret;
}

/* The namespace that this process lives in. */
static u64 own_namespace(void)
{
	u64 st[18]; /* struct stat of x86-64: device and inode come first */
	long fd = shim_sys3(NR_OPEN, "/proc/self/ns/pid", O_CLOEXEC_, 0), ret;

	if (fd < 0)
		return 0;
	ret = shim_sys2(NR_FSTAT, fd, st);
	shim_sys1(NR_CLOSE, fd);
	return ret ? 0 : st[1];
}

static void become_foreign(void)
{
	views++;
	__atomic_add_fetch(&agent_vforks, 1, __ATOMIC_ACQ_REL); /* each hit asks who it is */
}

/*
 * In a child of one whose numbers are its own, a parent of another namespace says that it has begun
 * one. Nobody else asks meanwhile, and no session ends (agent_check_fork).
 */
long agent_names_forked(u32 pid)
{
	u32 parent = agent_seen_pid();
	struct shim_ctl *ctl;
	long ret = 0;

	if (!shim_names.foreign && shim_sys0(NR_GETPPID))
		return 0;
	ctl = some_ctl();
	shim_names.ns = own_namespace();
	if (ctl && parent)
		ret = shim_ask(ctl, SHIM_ASK_CHILD, parent, pid, &agent_private.start_time);
	if (ret < 0) {
		agent_private.start_time = 0;
		return -E_BUSY;
	}
	if (!shim_names.foreign)
		become_foreign();
	shim_names.pid = (u32)ret; /* 0: all backends are dead; a new one says it */
	agent_store(&shim_names.foreign, 1u);
	return 0;
}

static u32 any_session(void)
{
	for (u32 i = 0; i < SHIM_MAX_SESSIONS; i++)
		if (shim_agent_root.sessions[i].id)
			return 1;
	return 0;
}

long agent_names_session(const struct shim_agent_session *msg)
{
	u32 foreign = msg->pid != 0;

	if (any_session() && shim_names.view && shim_names.view != msg->view)
		return -E_XDEV;
	if (shim_names.foreign != foreign || (foreign && shim_names.view != msg->view)) {
		become_foreign(); /* or the other way: blocks are filled again */
		agent_store(&shim_names.foreign, foreign);
	}
	if (foreign) {
		shim_names.ns = own_namespace();
		shim_names.pid = msg->pid;
		agent_private.start_time = msg->start_time;
	}
	shim_names.view = msg->view;
	return 0;
}

/* NSpid's last number is the task's own, whichever namespace this /proc was mounted for. */
u32 agent_task_own(u32 entry)
{
	char path[64], buf[1024];
	u32 at = 0, number = 0;
	long fd, n;

	if (!shim_names.foreign)
		return entry;
	agent_append(path, sizeof(path), &at, "/proc/self/task/");
	agent_append_number(path, sizeof(path), &at, entry);
	agent_append(path, sizeof(path), &at, "/status");
	fd = shim_sys3(NR_OPEN, path, O_CLOEXEC_, 0);
	if (fd < 0)
		return 0;
	n = shim_sys3(NR_READ, fd, buf, sizeof(buf));
	shim_sys1(NR_CLOSE, fd);
	for (long i = 0; i + 7 < n; i++) {
		if (agent_differs(buf + i, "\nNSpid:", 7))
			continue;
		for (i += 7; i < n && buf[i] != '\n'; i++)
			number = buf[i] == '\t' ? 0 : number * 10 + (u32)(buf[i] - '0');
		break;
	}
	return number;
}
