/*
 * Would a seccomp filter of the process end it, or refuse it, for what the agent and the keeper
 * have it call? Found out beforehand: by reading the filters, which takes CAP_SYS_ADMIN; else, for
 * a process whose filters this one is under too, by trying the calls here.
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
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "keeper.h"
#include "shim_filter.h"
#include "shim_sys.h"

enum { MAX_FILTERS = 64, DEEPEST = 4096 };
enum { TRIES = 50, NAP_US = 1000 }; /* for a thread that ends to be gone */
enum { NCALLS = sizeof(shim_needed) / sizeof(shim_needed[0]), RESTART = NCALLS - 1 };

static int judge(const struct shim_needed *call, s32 action, char *why, size_t room)
{
	if (!shim_filter_minds(call, action))
		return 0;
	snprintf(why, room, "its seccomp filter %s %s",
		 action == (s32)SECCOMP_RET_ERRNO ? "refuses" : "may end it for", call->name);
	return -EACCES;
}

/* The calls from 'first' on: 0, -EACCES with the reason, or -EPERM: the filters cannot be read. */
static int by_reading(pid_t tid, int first, char *why, size_t room)
{
	static struct sock_filter code[FILTER_INSNS];
	long at, n;
	int c, err = 0;

	for (at = 0; at < MAX_FILTERS && !err; at++) {
		n = ptrace(PTRACE_SECCOMP_GET_FILTER, tid, at, NULL);
		if (n < 0 && errno == ENOENT)
			return 0;
		if (n < 0 || n > FILTER_INSNS || ptrace(PTRACE_SECCOMP_GET_FILTER, tid, at, code) < 0)
			return -EPERM;
		for (c = first; c < NCALLS && !err; c++)
			err = judge(&shim_needed[c],
				    shim_filter_verdict(code, (int)n, DEEPEST, &shim_needed[c]), why,
				    room);
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

/* false: it has ended. */
static bool read_status(int proc, const char *task, char *status, size_t room)
{
	char path[64];

	snprintf(path, sizeof(path), "%s/status", task);
	read_file(proc, path, status, room);
	return *status && !strstr(status, "\nState:\tZ") && !strstr(status, "\nState:\tX");
}

/* false: a thread on its way out, that has let go of its filters or namespaces; or of somebody else's. */
static bool read_whole(int proc, const char *task, const char *status, struct lot *lot)
{
	char path[64];

	lot->mode = (int)field(status, "\nSeccomp:");
	lot->filters = (int)field(status, "\nSeccomp_filters:");
	lot->no_new_privs = (int)field(status, "\nNoNewPrivs:");
	if (lot->mode <= 0)
		return true;
	snprintf(path, sizeof(path), "%s/cgroup", task);
	read_file(proc, path, lot->cgroup, sizeof(lot->cgroup));
	return (lot->mode != 2 || lot->filters) && !read_link(proc, task, "mnt", lot->mnt) &&
	       !read_link(proc, task, "pid", lot->pid) && !read_link(proc, task, "user", lot->user);
}

/* Of one that has ended, as a leader before its threads, or meanwhile, there is nothing to be done. */
static void read_lot(int proc, const char *task, struct lot *lot)
{
	char status[8192];
	int tries;

	for (tries = 0; tries < TRIES; tries++) {
		memset(lot, 0, sizeof(*lot));
		if (!read_status(proc, task, status, sizeof(status)))
			return;
		if (read_whole(proc, task, status, lot))
			return;
		usleep(NAP_US);
	}
	lot->filters = -1;
}

static void lot_of(const char *path, struct lot *lot)
{
	int proc = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	memset(lot, 0, sizeof(*lot));
	if (proc < 0)
		return;
	read_lot(proc, ".", lot);
	close(proc);
}

/*
 * The same filters, as far as one can tell without reading them: as many; put on by somebody with
 * privileges that neither has now (no_new_privs is off: the program cannot have done it itself);
 * and started by the same hand, that is, in one cgroup and the same namespaces.
 */
static int same_but_cgroup(const struct lot *a, const struct lot *b)
{
	return geteuid() && a->mode == 2 && b->mode == 2 && a->filters > 0 &&
	       a->filters == b->filters && !a->no_new_privs && !b->no_new_privs &&
	       !strcmp(a->mnt, b->mnt) && !strcmp(a->pid, b->pid) && !strcmp(a->user, b->user);
}

static int same_lot(const struct lot *a, const struct lot *b)
{
	return same_but_cgroup(a, b) && !strcmp(a->cgroup, b->cgroup);
}

/* As same_lot. A thread that begins or ends is shown in the root of each hierarchy of the first version of
 * cgroups (proc_cgroup_show(), kernel/cgroup/cgroup.c): it is looked at again, until it has ended. */
static int settles_in_lot(int proc, const char *task, struct lot *lot, const struct lot *own)
{
	int tries;

	for (tries = 0; tries < TRIES && same_but_cgroup(lot, own) && !same_lot(lot, own); tries++) {
		usleep(NAP_US);
		read_lot(proc, task, lot);
	}
	return lot->mode <= 0 || same_lot(lot, own);
}

/*
 * A container's filters, as init has them: who has as many as it has no others, since all processes of a
 * namespace of process numbers come of its init, or are put there by who made it, and nobody gets rid of
 * a filter. So has this one, and maybe some more, which can only refuse more.
 */
static int inits_alone(const struct lot *lot, const struct lot *own)
{
	int init = open("/proc/1", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char status[8192] = "";
	long filters;

	if (init >= 0) {
		read_status(init, ".", status, sizeof(status));
		close(init);
	}
	filters = field(status, "\nSeccomp_filters:");
	return filters > 0 && lot->mode == 2 && lot->filters == filters && own->filters >= filters &&
	       !strcmp(lot->pid, own->pid);
}

static int ours_too(int proc, const char *task, struct lot *lot, const struct lot *own)
{
	return inits_alone(lot, own) || settles_in_lot(proc, task, lot, own);
}

static void nothing(int sig)
{
	(void)sig;
}

static long try(const struct shim_needed *call)
{
	if (call->nr != __NR_rt_sigreturn)
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
		ret = try(&shim_needed[c]);
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
		err = judge(&shim_needed[c], results[c], why, room);
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
	else if (!geteuid() && own->mode <= 0) /* who is under one cannot read any (kernel/seccomp.c) */
		return 0;
	if (err != -EPERM)
		return err;
	if (ours_too(proc, task, &lot, own))
		return lot.mode <= 0 ? 0 : by_trying(0, why, room);
	snprintf(why, room, "what its seccomp filter does to it cannot be read without CAP_SYS_ADMIN");
	return -EPERM;
}

int kp_seccomp(struct kp_target *t, char *why, size_t room)
{
	struct lot own;
	int i, err = 0;

	lot_of("/proc/self", &own);
	for (i = 0; i < t->nthreads && !err; i++)
		if (t->threads[i].state == KP_STOPPED)
			err = one_thread(t->proc, t->threads[i].tid, &own, 1, why, room);
	return err ? -EACCES : 0;
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
	lot_of("/proc/self", &own);
	while (dir && !err && (entry = readdir(dir)))
		if (atoi(entry->d_name) > 0)
			err = one_thread(proc, atoi(entry->d_name), &own, 0, why, room);
	if (dir)
		closedir(dir);
	if (proc >= 0)
		close(proc);
	return err ? -EACCES : 0;
}

int kp_may_call(const struct kp_target *t, pid_t tid, int injected)
{
	char task[32], why[256];
	struct lot lot, own;
	int err;

	snprintf(task, sizeof(task), "task/%d", tid);
	read_lot(t->proc, task, &lot);
	if (lot.mode <= 0)
		return 1;
	lot_of("/proc/self", &own);
	err = one_thread(t->proc, tid, &own, 1, why, sizeof(why));
	return !err || (err == -EPERM && !injected);
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
	lot_of("/proc/self", &own);
	return ours_too(t->proc, task, &lot, &own) && !by_trying(RESTART, why, sizeof(why));
}
