/* At each met(kind, pid, tid) of inside.c: is the thread to itself what the kernel tells it is there,
 * and is its storage its own? */
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "counters.h"

enum { HITS = 0, OWN = 1, THREADS = 2, WRONG = 3, DEVICES = 128 };

struct ns_common {
	unsigned int inum;
} __attribute__((preserve_access_index));
struct pid_namespace {
	struct ns_common ns;
} __attribute__((preserve_access_index));
struct nsproxy {
	struct pid_namespace *pid_ns_for_children;
} __attribute__((preserve_access_index));
struct task_struct {
	struct nsproxy *nsproxy;
} __attribute__((preserve_access_index));

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u64);
} own SEC(".maps");

SEC("uprobe")
int on_hit(struct pt_regs *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u64 inum = BPF_CORE_READ(task, nsproxy, pid_ns_for_children, ns.inum);
	__u64 *who, both = bpf_get_current_pid_tgid();
	struct bpf_pidns_info info = { 0 };
	int dev;

	count(HITS);
	for (dev = 0; dev < DEVICES; dev++) /* of nsfs: some number */
		if (!bpf_get_ns_current_pid_tgid(dev, inum, &info, sizeof(info)))
			break;
	count(info.tgid == PT_REGS_PARM2(ctx) && info.pid == PT_REGS_PARM3(ctx) ? OWN : WRONG);
	who = bpf_task_storage_get(&own, bpf_get_current_task_btf(), 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!who)
		count(WRONG);
	else if (!*who)
		count(THREADS), *who = both;
	else if (*who != both)
		count(WRONG);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
