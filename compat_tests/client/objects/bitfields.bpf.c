#include "core.h"

struct task_struct {
	unsigned int sched_reset_on_fork : 1;
	unsigned int sched_contributes_to_load : 1;
	unsigned int in_execve : 1;
	unsigned int brk_randomized : 1;
	int pid;
} CORE;

struct sk_buff {
	__u8 pkt_type : 3;
	__u8 ip_summed : 2;
	__u16 protocol;
} CORE;

u64 sum;

SEC("raw_tp/sched_switch")
int whole(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *t = (void *)ctx->args[1];

	sum += BPF_CORE_READ_BITFIELD(t, in_execve);
	sum += BPF_CORE_READ_BITFIELD_PROBED(t, sched_reset_on_fork);
	sum += BPF_CORE_READ_BITFIELD_PROBED(t, brk_randomized);
	sum += BPF_CORE_READ_BITFIELD_PROBED(t, pid);
	return 0;
}

SEC("tp_btf/kfree_skb")
int packet(u64 *ctx)
{
	struct sk_buff *skb = (void *)ctx[0];

	sum += BPF_CORE_READ_BITFIELD(skb, pkt_type) + BPF_CORE_READ_BITFIELD(skb, ip_summed);
	sum += BPF_CORE_READ_BITFIELD(skb, protocol);
	return 0;
}
