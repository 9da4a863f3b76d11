/* Counts its hits at a function's entry and return, and at system calls of one process. */
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "counters.h"

enum { ENTRY = 0, RETURN = 1, CALL = 2, TGID = 3 };

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
