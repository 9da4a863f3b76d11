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
	return is_loader() ? 0 : REAL(geteuid)();
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

/* What the call on this process has answered, -1 and errno where it failed; `saved` is errno before it. */
static int told(int ret, int saved, int which, const struct rlimit *to, struct rlimit *was)
{
	struct rlimit ask;

	if (which != RLIMIT_MEMLOCK || surface.secure)
		return ret;
	if (ret && errno == EPERM && to) {
		if (shim_copy_from(&ask, (u64)to, sizeof(ask)))
			return (int)surface_ret(-EFAULT);
		errno = saved;
		ret = was ? getrlimit(RLIMIT_MEMLOCK, was) : 0;
		memlock = ask;
		store_release(&memlock_set, 1);
	} else if (!ret && to) {
		store_release(&memlock_set, 0);
	} else if (!ret && was && load_acquire(&memlock_set)) {
		*was = memlock;
	}
	return ret;
}

EXPORT int setrlimit(__rlimit_resource_t which, const struct rlimit *to)
{
	int saved = errno;

	return told(REAL(setrlimit)(which, to), saved, (int)which, to, NULL);
}

EXPORT int setrlimit64(__rlimit_resource_t which, const struct rlimit64 *to)
{
	return setrlimit(which, (const struct rlimit *)to);
}

EXPORT int getrlimit(__rlimit_resource_t which, struct rlimit *was)
{
	int saved = errno;

	return told(REAL(getrlimit)(which, was), saved, (int)which, NULL, was);
}

EXPORT int getrlimit64(__rlimit_resource_t which, struct rlimit64 *was)
{
	return getrlimit(which, (struct rlimit *)was);
}

static bool own(pid_t pid)
{
	return !pid || pid == (pid_t)shim_sys0(SYS_getpid);
}

EXPORT int prlimit(pid_t pid, enum __rlimit_resource which, const struct rlimit *to, struct rlimit *was)
{
	int saved = errno, ret = REAL(prlimit)(pid, which, to, was);

	return own(pid) ? told(ret, saved, (int)which, to, was) : ret;
}

EXPORT int prlimit64(pid_t pid, enum __rlimit_resource which, const struct rlimit64 *to,
		     struct rlimit64 *was)
{
	return prlimit(pid, which, (const struct rlimit *)to, (struct rlimit *)was);
}
