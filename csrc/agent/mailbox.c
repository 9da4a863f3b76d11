/*
 * The mailbox: how a backend reaches this process where ptrace is refused. A file of the run
 * directory, mapped shared, and one thread that sleeps on its futex, blocks all signals, and
 * has a descriptor table of its own (emptied at once), so that nothing the application does with its
 * descriptors meets ours.
 */
#include "state.h"

enum {
	CLONE_FLAGS = 0x100 | 0x200 | 0x800 | 0x10000 | 0x40000, /* VM FS SIGHAND THREAD SYSVSEM */
	STACK = 65536,
	NR_CLOSE_RANGE = 436,
	SIG_SETMASK_ = 2,
	FUTEX_WAIT_ = 0,
	FUTEX_WAKE_ = 1,
	MAILBOX_MAGIC = SHIM_AGENT_MAGIC,
};

long agent_clone(u64 flags, u64 stack, void (*run)(u64), u64 arg);

static void serve(struct shim_mailbox *box)
{
	enum { PR_SET_PTRACER = 0x59616d61 };
	char path[sizeof(box->path)];
	u32 seq = agent_load(&box->seq), tracer = agent_load(&box->tracer);

	agent_copy(path, box->path, sizeof(path));
	path[sizeof(path) - 1] = box->path[0] = 0;
	agent_store(&box->tracer, 0u);
	box->result = tracer ? (s32)shim_sys2(NR_PRCTL, PR_SET_PTRACER, tracer) : 0;
	if (path[0])
		box->result = (s32)agent_sync(path, SHIM_SYNC_MAILBOX);
	agent_store(&box->done, seq);
	shim_sys6(NR_FUTEX, (long)&box->done, FUTEX_WAKE_, 1 << 30, 0, 0, 0);
}

/* The thread: sleeps a minute at a time, for as long as the process lives. */
static void helper(u64 arg)
{
	struct shim_mailbox *box = (struct shim_mailbox *)arg;
	u64 minute[2] = { 60, 0 };

	if (shim_sys3(NR_CLOSE_RANGE, 0, ~0u, 0))
		for (long fd = 0; fd < 65536; fd++)
			shim_sys1(NR_CLOSE, fd);
	for (;;) {
		u32 seq = agent_load(&box->seq);

		if (seq != agent_load(&box->done))
			serve(box);
		else
			shim_sys6(NR_FUTEX, (long)&box->seq, FUTEX_WAIT_, seq, (long)minute, 0, 0);
	}
}

static u32 path_of(char *path, u32 room, const char *run_dir, const char *rest)
{
	u32 len = 0;

	agent_append(path, room, &len, run_dir);
	agent_append(path, room, &len, rest);
	return len;
}

/* Makes the file of this process; descriptor or -errno. */
static long create(const char *run_dir)
{
	char path[160];
	u32 len;
	long fd;

	path_of(path, sizeof(path), run_dir, "");
	shim_sys2(NR_MKDIR, path, 0700);
	/* visit.c's rule for the directory: of this user, no symlink */
	fd = shim_sys3(NR_OPEN, path, O_DIRECTORY_ | O_NOFOLLOW_ | O_CLOEXEC_, 0);
	if (fd < 0)
		return fd;
	shim_sys1(NR_CLOSE, fd);
	len = path_of(path, sizeof(path), run_dir, "/agents");
	shim_sys2(NR_MKDIR, path, 0700);
	agent_append(path, sizeof(path), &len, "/");
	agent_append_number(path, sizeof(path), &len, (u64)shim_sys0(NR_GETPID));
	if (len >= sizeof(path))
		return -E_RANGE;
	shim_sys1(NR_UNLINK, path); /* of an earlier process of this number */
	fd = shim_sys3(NR_OPEN, path, O_RDWR_ | O_CREAT_ | O_EXCL_ | O_NOFOLLOW_ | O_CLOEXEC_, 0600);
	if (fd >= 0 && shim_sys2(NR_FTRUNCATE, fd, AGENT_PAGE)) {
		shim_sys1(NR_CLOSE, fd);
		return -E_NOSPC;
	}
	return fd;
}

static long start_helper(struct shim_mailbox *box)
{
	u64 all = ~0ull, before = 0;
	long stack = shim_sys6(NR_MMAP, 0, STACK, PROT_RW, MAP_PRIVATE_ | MAP_ANON_, -1, 0);
	long ret;

	if (stack < 0 && stack > -4096)
		return stack;
	/* the thread inherits the mask */
	shim_sys4(NR_SIGPROCMASK, SIG_SETMASK_, &all, &before, 8);
	ret = agent_clone(CLONE_FLAGS, (u64)stack + STACK, helper, (u64)box);
	shim_sys4(NR_SIGPROCMASK, SIG_SETMASK_, &before, 0, 8);
	if (ret < 0)
		shim_sys2(NR_MUNMAP, stack, STACK);
	return ret;
}

void agent_mailbox_close(void)
{
	const char *run_dir = agent_private.run_dir[agent_private.run_dir[0][0] ? 0 : 1];
	char path[160];
	u32 len;

	if (!shim_agent_root.mailbox)
		return;
	agent_store(&shim_agent_root.mailbox, 0ull);
	len = path_of(path, sizeof(path), run_dir, "/agents/");
	agent_append_number(path, sizeof(path), &len, (u64)shim_sys0(NR_GETPID));
	if (len < sizeof(path))
		shim_sys1(NR_UNLINK, path);
}

void agent_mailbox_open(void)
{
	const char *run_dir = agent_private.run_dir[agent_private.run_dir[0][0] ? 0 : 1];
	struct shim_mailbox *box;
	long fd = create(run_dir), at;

	if (fd < 0)
		return;
	at = shim_sys6(NR_MMAP, 0, AGENT_PAGE, PROT_RW, MAP_SHARED_, fd, 0);
	shim_sys1(NR_CLOSE, fd);
	if (at < 0 && at > -4096)
		return;
	box = (struct shim_mailbox *)at;
	box->version = SHIM_AGENT_VERSION;
	box->pid = (u32)shim_sys0(NR_GETPID);
	box->start_time = agent_start_time();
	if (start_helper(box) < 0) {
		shim_sys2(NR_MUNMAP, at, AGENT_PAGE);
		return;
	}
	agent_store(&box->magic, (u32)MAILBOX_MAGIC);
	agent_store(&shim_agent_root.mailbox, (u64)box);
}
