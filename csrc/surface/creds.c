/*
 * What loaders insist on and do not need here: to be root (bpftrace refuses to run otherwise),
 * to have capabilities (bpftool, before it asks what there is), and to lift RLIMIT_MEMLOCK
 * (nothing of ours is charged to it).
 */
#include <errno.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "surface.h"

/* A process that has called bpf(2), or one that looks at who it is before it does: bpftool, and
 * bpftrace where it is asked for --info. */
static bool is_loader(void)
{
	return !surface.secure &&
	       (surface.started || !strcmp(program_invocation_short_name, "bpftool") ||
		!strcmp(program_invocation_short_name, "bpftrace"));
}

EXPORT uid_t geteuid(void)
{
	return is_loader() ? 0 : (uid_t)syscall(SYS_geteuid);
}

int capget(cap_user_header_t header, cap_user_data_t data);

/* Effective are then also those that bpf(2) asks for. What may be had stays as it is, so that
 * capset(2) of what was read is as good as before. */
EXPORT int capget(cap_user_header_t header, cap_user_data_t data)
{
	static const u8 bpf[] = { CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF };
	int ret = REAL(capget)(header, data);

	if (ret || !data || !is_loader() || header->version != _LINUX_CAPABILITY_VERSION_3 ||
	    (header->pid && header->pid != (int)shim_sys0(SYS_getpid)))
		return ret;
	for (u32 i = 0; i < array_size(bpf); i++)
		data[CAP_TO_INDEX(bpf[i])].effective |= CAP_TO_MASK(bpf[i]);
	return 0;
}

/* As set by a call that the kernel refused; told again by getrlimit. */
static struct rlimit memlock;
static u32 memlock_set;

/* The application's own call, made where those are met (entry.S): 0 or a negative errno. */
static long ask_limits(pid_t pid, int which, const struct rlimit *to, struct rlimit *was)
{
	int saved = errno;
	long err = syscall(SYS_prlimit64, pid, which, to, was) ? -errno : 0;

	errno = saved;
	return err;
}

/* prlimit64 on this process. */
static long limits(int which, const struct rlimit *to, struct rlimit *was)
{
	long err = ask_limits(0, which, to, was);
	struct rlimit ask;

	if (which != RLIMIT_MEMLOCK || surface.secure)
		return err;
	if (err == -EPERM && to) {
		if (shim_copy_from(&ask, (u64)to, sizeof(ask)))
			return -EFAULT;
		err = was ? limits(which, NULL, was) : 0;
		memlock = ask;
		store_release(&memlock_set, 1);
	} else if (!err && to) {
		store_release(&memlock_set, 0);
	} else if (!err && was && load_acquire(&memlock_set)) {
		*was = memlock;
	}
	return err;
}

EXPORT int setrlimit(__rlimit_resource_t which, const struct rlimit *to)
{
	return (int)surface_ret(limits((int)which, to, NULL));
}

EXPORT int setrlimit64(__rlimit_resource_t which, const struct rlimit64 *to)
{
	return (int)surface_ret(limits((int)which, (const struct rlimit *)to, NULL));
}

EXPORT int getrlimit(__rlimit_resource_t which, struct rlimit *was)
{
	return (int)surface_ret(limits((int)which, NULL, was));
}

EXPORT int getrlimit64(__rlimit_resource_t which, struct rlimit64 *was)
{
	return (int)surface_ret(limits((int)which, NULL, (struct rlimit *)was));
}

static bool own(pid_t pid)
{
	return !pid || pid == (pid_t)shim_sys0(SYS_getpid);
}

EXPORT int prlimit(pid_t pid, enum __rlimit_resource which, const struct rlimit *to, struct rlimit *was)
{
	if (own(pid))
		return (int)surface_ret(limits((int)which, to, was));
	return (int)surface_ret(ask_limits(pid, (int)which, to, was));
}

EXPORT int prlimit64(pid_t pid, enum __rlimit_resource which, const struct rlimit64 *to,
		     struct rlimit64 *was)
{
	return prlimit(pid, which, (const struct rlimit *)to, (struct rlimit *)was);
}
