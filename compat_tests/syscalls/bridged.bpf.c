/* Counts what bridged calls, with the arguments that it has, and sends it a signal where it waits. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

enum { MAPS, READS, LEFT, ERESTARTSYS = 512, SIGUSR1 = 10, WAITS = 4242, LENGTH = 12345 };

struct call { /* args: of an exit the result */
	__u64 common;
	long nr;
	__u64 args[6];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 9);
	__type(key, __u32);
	__type(value, __u64);
} out SEC(".maps");

static volatile __u32 waiting; /* the thread */

static void add(__u32 key)
{
	__u64 *value = bpf_map_lookup_elem(&out, &key);

	if (value)
		__sync_fetch_and_add(value, 1);
}

SEC("tracepoint/syscalls/sys_enter_mmap") int maps(const struct call *call)
{
	if (!call->args[0] && call->args[1] == LENGTH && call->args[2] == 1 && call->args[3] == 2 &&
	    call->args[4] && call->args[5] == 4096)
		add(MAPS);
	return 0;
}

SEC("tracepoint/syscalls/sys_enter_read") int reads(const struct call *call)
{
	if (call->args[2] != WAITS || !call->args[1])
		return 0;
	add(READS);
	waiting = (__u32)bpf_get_current_pid_tgid();
	bpf_send_signal_thread(SIGUSR1);
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_read") int left(const struct call *call)
{
	if ((__u32)bpf_get_current_pid_tgid() == waiting && (long)call->args[0] == -ERESTARTSYS)
		add(LEFT);
	return 0;
}

#ifdef SKIPS
SEC("kprobe/__x64_sys_getuid") int skips(void *ctx)
{
	bpf_override_return(ctx, 4242);
	return 0;
}
#endif

char LICENSE[] SEC("license") = "GPL";
