/* Time, and who is running: of the thread that the program interrupts. */
#include "helpers.h"
#include "task.h"

enum { NR_GETPID = 39, NR_KILL = 62, NR_GETUID = 102, NR_GETGID = 104, NR_PRCTL = 157 };
enum { NR_RT_SIGQUEUEINFO = 129, NR_RT_TGSIGQUEUEINFO = 297, SI_KERNEL_ = 0x80, TO_THREAD = 256 };
enum { NR_GETTID = 186, NR_TGKILL = 234, PR_GET_NAME_ = 16, COMM_LEN = 16 };
enum { NR_CLOCK_GETRES = 229, NR_NEWFSTATAT = 262, AT_FDCWD_ = -100 };
enum { MONOTONIC = 1, MONOTONIC_COARSE = 6, BOOTTIME = 7, TAI = 11 };

HELPER(ktime_get_ns)
{
	UNUSED(r1, r2, r3, r4, r5);
	return clock_passed(run, clock_ns(MONOTONIC));
}

HELPER(clock_own)
{
	UNUSED(r1, r2, r3, r4, r5);
	return clock_own(run);
}

HELPER(ktime_get_boot_ns)
{
	UNUSED(r1, r2, r3, r4, r5, (u64)run);
	return clock_ns(BOOTTIME);
}

HELPER(ktime_get_coarse_ns)
{
	UNUSED(r1, r2, r3, r4, r5, (u64)run);
	return clock_ns(MONOTONIC_COARSE);
}

HELPER(ktime_get_tai_ns)
{
	UNUSED(r1, r2, r3, r4, r5, (u64)run);
	return clock_ns(TAI);
}

/* Ticks since five minutes before 2^32 (INITIAL_JIFFIES); the coarse clock's resolution is a tick. */
HELPER(jiffies64)
{
	u64 tick[2] = { 0, 4000000 };

	UNUSED(r1, r2, r3, r4, r5, (u64)run);
	shim_sys2(NR_CLOCK_GETRES, MONOTONIC_COARSE, tick);
	return (1ull << 32) - 300 * (1000000000 / tick[1]) + clock_ns(MONOTONIC_COARSE) / tick[1];
}

/* A mix of the time stamp counter, or of the clock; quality as the name promises. */
HELPER(get_prandom_u32)
{
	u64 now = clock_counts() ? __builtin_ia32_rdtsc() : clock_ns(MONOTONIC);
	u64 x = now + (u64)run->owner * 0x9e3779b97f4a7c15ull;

	UNUSED(r1, r2, r3, r4, r5);
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return (u32)(x ^ x >> 31);
}

HELPER(get_smp_processor_id)
{
	UNUSED(r1, r2, r3, r4, r5);
	return run->vcpu == SHIM_NO_VCPU ? real_cpu() & 0xfff : run->vcpu;
}

HELPER(get_numa_node_id)
{
	UNUSED(r1, r2, r3, r4, r5, (u64)run);
	return real_cpu() >> 12;
}

u32 current_tid(const struct shim_run *run)
{
	const struct shim_thread *t = (const struct shim_thread *)run->thread;

	return t ? t->tid : (u32)shim_sys0(NR_GETTID);
}

HELPER(get_current_pid_tgid)
{
	const struct shim_thread *t = (const struct shim_thread *)run->thread;

	UNUSED(r1, r2, r3, r4, r5);
	if (t)
		return (u64)t->tgid << 32 | t->tid;
	return (u64)shim_sys0(NR_GETPID) << 32 | (u64)shim_sys0(NR_GETTID);
}

/* struct bpf_pidns_info, if the namespace named is this process's. */
HELPER(get_ns_current_pid_tgid)
{
	u64 stat[18]; /* struct stat of x86-64: device and inode come first */
	u32 *info = (u32 *)r3;

	UNUSED(r5, (u64)run);
	if (r4 == 8 && r1 == (u32)r1 &&
	    !shim_sys4(NR_NEWFSTATAT, AT_FDCWD_, "/proc/self/ns/pid", stat, 0) && stat[0] == r1 &&
	    stat[1] == r2) {
		info[0] = (u32)shim_sys0(NR_GETTID);
		info[1] = (u32)shim_sys0(NR_GETPID);
		return 0;
	}
	memset(info, 0, (u32)r4);
	return (u64)-EINVAL;
}

HELPER(get_current_uid_gid)
{
	const struct shim_stand_in *other = stand_in(run);

	UNUSED(r1, r2, r3, r4, r5);
	if (other)
		return (u64)other->gid << 32 | other->uid;
	return (u64)shim_sys0(NR_GETGID) << 32 | (u64)shim_sys0(NR_GETUID);
}

HELPER(get_current_comm)
{
	u8 comm[COMM_LEN] = { 0 };
	u32 size = (u32)r2, n;

	UNUSED(r3, r4, r5);
	if (!size)
		return (u64)-EINVAL;
	if (stand_in(run))
		memcpy(comm, stand_in(run)->comm, COMM_LEN);
	else
		shim_sys2(NR_PRCTL, PR_GET_NAME_, comm);
	n = size < COMM_LEN ? size : COMM_LEN;
	memcpy((void *)r1, comm, n);
	memset((u8 *)r1 + n, 0, size - n);
	((u8 *)r1)[n - 1] = 0;
	return 0;
}

/* bpf_get_current_task_btf() too. Addresses that task.c answers for. */
HELPER(get_current_task)
{
	UNUSED(r1, r2, r3, r4, r5);
	return task_address(current_tid(run));
}

/* r2: a task's address, or NULL. */
HELPER(task_storage_get)
{
	u32 tid = task_of_address(r2);

	UNUSED(r5);
	if (!tid || r4 & ~(u64)BPF_LOCAL_STORAGE_GET_F_CREATE)
		return 0;
	return (u64)task_storage_get((const struct shim_map_desc *)r1, tid, (const void *)r3, r4 != 0,
				     run);
}

HELPER(task_storage_delete)
{
	u32 tid = task_of_address(r2);

	UNUSED(r3, r4, r5);
	return (u64)(tid ? task_storage_delete((const struct shim_map_desc *)r1, tid, run) : -EINVAL);
}

HELPER(get_current_cgroup_id)
{
	UNUSED(r1, r2, r3, r4, r5, (u64)run);
	return cgroup_id();
}

HELPER(get_current_ancestor_cgroup_id)
{
	UNUSED(r2, r3, r4, r5, (u64)run);
	return cgroup_ancestor_id((s32)r1);
}

HELPER(current_task_under_cgroup)
{
	UNUSED(r3, r4, r5, (u64)run);
	return (u64)cgroup_array_under((const struct shim_map_desc *)r1, (u32)r2);
}

struct info {
	s32 signo, err, code, pad[29];
};
_Static_assert(sizeof(struct info) == 128, "siginfo_t");

/* From the kernel, as a process may say to itself; where a filter forbids that, from itself. */
static long queue(u32 number, bool thread)
{
	struct info info = { .signo = (s32)number, .code = SI_KERNEL_ };
	long pid = shim_sys0(NR_GETPID), tid = thread ? shim_sys0(NR_GETTID) : 0, err;

	err = tid ? shim_sys4(NR_RT_TGSIGQUEUEINFO, pid, tid, number, &info)
		  : shim_sys3(NR_RT_SIGQUEUEINFO, pid, number, &info);
	if (err != -EPERM && err != -ENOSYS)
		return err;
	return tid ? shim_sys3(NR_TGKILL, pid, tid, number) : shim_sys2(NR_KILL, pid, number);
}

void shim_signal_flush(struct shim_run *run)
{
	u64 signal = run->signal;

	run->signal = signal & SHIM_RUN_SKIP;
	if (signal & 0xff)
		queue(signal & 0xff, signal & TO_THREAD);
}

/* The handler runs after the program, as on the kernel; a second signal of one run does not wait. */
static long send(u32 number, bool thread, struct shim_run *run)
{
	if (number > 64)
		return -EINVAL;
	if (stand_in(run)) /* it cannot take any more */
		return -ESRCH;
	if (number && run->signal & 0xff)
		return queue(number, thread);
	if (number)
		run->signal |= number | (thread ? TO_THREAD : 0);
	return 0;
}

HELPER(send_signal)
{
	UNUSED(r2, r3, r4, r5);
	return (u64)send((u32)r1, false, run);
}

HELPER(send_signal_thread)
{
	UNUSED(r2, r3, r4, r5);
	return (u64)send((u32)r1, true, run);
}

HELPER(get_func_ip)
{
	UNUSED(r1, r2, r3, r4, r5);
	return run->func_ip;
}

HELPER(get_attach_cookie)
{
	UNUSED(r1, r2, r3, r4, r5);
	return run->cookie;
}
