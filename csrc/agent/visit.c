/* The run directory: which sessions are there, and the occasions to visit them. */
#include "keys.h"
#include "proc.h"
#include "sys.h"
#include "clock.h"

struct dirent64 {
	u64 ino;
	s64 off;
	u16 reclen;
	u8 type;
	char name[];
};

struct stat_owner { /* struct stat of x86-64, as far as st_uid; 144 bytes */
	u64 dev, ino, nlink;
	u32 mode, uid;
	u64 rest[14];
};

/* A directory of this user's (no symlink followed), or -errno. */
static long open_dir(long at, const char *path)
{
	struct stat_owner st;
	long fd = shim_sys4(NR_OPENAT, at, path, O_DIRECTORY_ | O_NOFOLLOW_ | O_CLOEXEC_, 0);
	long ret;

	_Static_assert(sizeof(struct stat_owner) == 144, "struct stat");
	if (fd < 0)
		return fd;
	ret = shim_sys2(NR_FSTAT, fd, &st);
	if (!ret && st.uid != agent_private.euid)
		ret = -E_ACCES;
	if (ret) {
		shim_sys1(NR_CLOSE, fd);
		return ret;
	}
	return fd;
}

static void visit_one(const char *run_dir, const char *name, u32 reason)
{
	char path[108];
	u32 len = 0;

	agent_append(path, sizeof(path), &len, run_dir);
	agent_append(path, sizeof(path), &len, "/sessions/");
	agent_append(path, sizeof(path), &len, name);
	agent_append(path, sizeof(path), &len, "/sock");
	if (len < sizeof(path))
		agent_sync(path, reason); /* a dead session refuses; nothing is lost by that */
}

/* Somebody traces this thread, as a keeper does that goes with it through its exec. */
static int is_traced(void)
{
	static const char name[] = "TracerPid:\t";
	enum { LEN = sizeof(name) - 1 };
	struct proc_file f;
	char line[32];
	int found = 0;

	proc_open_thread(&f, "/status");
	while (!found && proc_line(&f, line, sizeof(line)) >= 0)
		found = !agent_differs(line, name, LEN) && line[LEN] && line[LEN] != '0';
	proc_close(&f);
	return found;
}

/* An exec is waited for by one session alone, and not for long: none of the others keeps it back. Nor can
 * they go with it too; the kernel tells them of it. */
static int enough(u32 reason)
{
	return reason == SHIM_SYNC_EXEC && is_traced();
}

/* Nonzero: no more of them need be visited. */
static int visit_dir(const char *run_dir, u32 reason)
{
	char buf[1024] __attribute__((aligned(8)));
	long run, fd, len;
	int over = 0;

	run = open_dir(-100 /* AT_FDCWD */, run_dir);
	if (run < 0)
		return 0;
	fd = open_dir(run, "sessions");
	shim_sys1(NR_CLOSE, run);
	if (fd < 0)
		return 0;
	while (!over && (len = shim_sys3(NR_GETDENTS64, fd, buf, sizeof(buf))) > 0)
		for (long at = 0; at < len && !over; at += ((struct dirent64 *)(buf + at))->reclen) {
			const char *name = ((struct dirent64 *)(buf + at))->name;

			if (name[0] == '.')
				continue;
			visit_one(run_dir, name, reason);
			over = enough(reason);
		}
	shim_sys1(NR_CLOSE, fd);
	return over;
}

/* The keeper is not a target: it would wait for its own backend. */
static int is_keeper(void)
{
	static const char end[] = "/libbpf_shim/_bin/keeper";
	char exe[512];
	long len = shim_sys3(NR_READLINK, "/proc/self/exe", exe, sizeof(exe));
	long want = (long)sizeof(end) - 1;

	return len >= want && !agent_differs(exe + len - want, end, (u64)want);
}

void agent_visit(u32 reason)
{
	int over = 0;

	for (u32 i = 0; i < 2 && !over && !agent_muted(); i++)
		if (agent_private.run_dir[i][0])
			over = visit_dir(agent_private.run_dir[i], reason);
}

void agent_start(const struct agent_host *host)
{
	struct agent_private *p = &agent_private;
	u32 len = 0, was_open;

	p->sysinfo_ehdr = host->sysinfo_ehdr;
	p->fsgsbase = host->hwcap2 >> 1 & 1;
	p->tid_at = host->tid_at;
	p->euid = (u32)shim_sys0(NR_GETEUID);
	if (host->runtime_dir && host->runtime_dir[0] == '/') {
		agent_append(p->run_dir[0], sizeof(p->run_dir[0]), &len, host->runtime_dir);
		agent_append(p->run_dir[0], sizeof(p->run_dir[0]), &len, "/libbpf_shim");
		if (len >= sizeof(p->run_dir[0]))
			p->run_dir[0][0] = 0; /* its sockets could not be named either */
	}
	len = 0;
	agent_append(p->run_dir[1], sizeof(p->run_dir[1]), &len, "/tmp/libbpf_shim-");
	agent_append_number(p->run_dir[1], sizeof(p->run_dir[1]), &len, p->euid);
	if (is_keeper())
		return;
	shim_agent_root.service_entry = (u64)agent_service_entry;
	shim_agent_root.service_frame = (u64)&agent_service_frame;
	agent_ptrace_probe();
	/* whoever attaches to something once the sessions have been visited comes by the mailbox */
	if (p->ptrace_errno || p->yama)
		agent_mailbox_open();
	agent_visit(SHIM_SYNC_START);
	was_open = shim_key_open();
	if (host->execfn)
		agent_proc_exec(host->execfn);
	agent_exec_done();
	shim_key_back(was_open);
}

void agent_forked(void)
{
	u32 was_open;

	if (agent_muted())
		return;
	was_open = shim_key_open();
	agent_check_fork(0);
	agent_clock_forked();
	shim_key_back(was_open);
	if (!shim_names.foreign)
		agent_private.start_time = 0;
	shim_agent_root.mailbox = 0; /* its thread is the parent's */
	if (agent_private.ptrace_errno || agent_private.yama)
		agent_mailbox_open();
}

/* First words of struct r_debug, <link.h>. */
struct r_debug_head {
	s32 version, pad;
	u64 map, brk;
	u32 state; /* 0: RT_CONSISTENT */
};

/* Does a live session want to know: is the link map consistent, and its backend alive? */
static u32 news(const struct shim_site *site)
{
	for (u32 at = agent_load(&site->first), n = 0; at && n < SHIM_MAX_SITE_LINKS; n++) {
		struct shim_site_link *link = &agent_links()[(at - 1) % SHIM_MAX_SITE_LINKS];
		const struct r_debug_head *debug = (const void *)link->cookie;
		struct shim_ctl
			*ctl = (void *)shim_agent_root.sessions[link->session % SHIM_MAX_SESSIONS].ctl;

		at = agent_load(&link->next);
		if (!agent_load(&link->live) || !ctl || !debug || debug->state ||
		    agent_shut(link->session))
			continue;
		if (agent_load(&ctl->backend_lock[0]) & SHIM_BACKEND_DEAD)
			continue;
		return 1;
	}
	return 0;
}

/*
 * SHIM_SYM_DL_CHANGE: the function that the dynamic linker calls when its link map changes. Each
 * live link's cookie is the address of the struct r_debug; when that is consistent the
 * backends are told, and patch what was loaded before anybody can call it. Control pages are read
 * inside a guard, so that none goes meanwhile; the conversations are not.
 */
u64 agent_dl_change(struct shim_pt_regs *regs, struct shim_site *site)
{
	struct agent_guard guard;
	struct shim_thread *t;
	u32 visit;

	t = agent_thread();
	if (!t || agent_guard_enter(t, agent_app_sp((u64)__builtin_frame_address(0)), &guard))
		return 0;
	visit = regs->ip == agent_load(&site->addr) && news(site);
	agent_guard_leave(t, &guard);
	if (visit)
		agent_visit(SHIM_SYNC_DLOPEN);
	return 0;
}
