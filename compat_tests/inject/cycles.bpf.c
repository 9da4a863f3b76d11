/* Counts its hits at a function's entry and return, and at system calls of one process. */
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

enum { ENTRY = 0, RETURN = 1, CALL = 2, COUNTERS = 3, TGID = 3 };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, COUNTERS + 1);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

static __always_inline void count(__u32 key)
{
	__u64 *value = bpf_map_lookup_elem(&counters, &key);

	if (value)
		__sync_fetch_and_add(value, 1);
}

SEC("uprobe")
int on_entry(struct pt_regs *ctx)
{
	count(ENTRY);
	return 0;
}

SEC("uretprobe")
int on_return(struct pt_regs *ctx)
{
	count(RETURN);
	return 0;
}

SEC("tracepoint/raw_syscalls/sys_enter")
int on_call(void *ctx)
{
	__u32 key = TGID;
	__u64 *tgid = bpf_map_lookup_elem(&counters, &key);

	if (tgid && bpf_get_current_pid_tgid() >> 32 == *tgid)
		count(CALL);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
