/* Eight uprobes and uretprobes on the `calls` victim: counts and sums, each in two maps. */
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

enum { PROBES = 8 };

struct tally {
	__u64 hits;
	__u64 sum;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PROBES);
	__type(key, __u32);
	__type(value, struct tally);
} tallies SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64); /* tgid << 8 | probe */
	__type(value, __u64);
} by_process SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PROBES);
	__type(key, __u32);
	__type(value, __u64);
} per_cpu SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} events SEC(".maps");

__u64 total; /* .bss, mapped by the loader */

static __always_inline int hit(__u32 probe, __u64 value)
{
	__u64 key = (bpf_get_current_pid_tgid() >> 32) << 8 | probe;
	struct tally *tally = bpf_map_lookup_elem(&tallies, &probe);
	__u64 *count = bpf_map_lookup_elem(&by_process, &key);
	__u64 *mine = bpf_map_lookup_elem(&per_cpu, &probe);
	__u64 zero = 0;

	if (!tally || !mine)
		return 0;
	__sync_fetch_and_add(&tally->hits, 1);
	__sync_fetch_and_add(&tally->sum, value);
	__sync_fetch_and_add(mine, 1);
	__sync_fetch_and_add(&total, 1);
	if (!count) {
		bpf_map_update_elem(&by_process, &key, &zero, BPF_NOEXIST);
		count = bpf_map_lookup_elem(&by_process, &key);
	}
	if (count)
		__sync_fetch_and_add(count, 1);
	return 0;
}

SEC("uprobe")
int on_tick(struct pt_regs *ctx)
{
	return hit(0, 1);
}

SEC("uprobe")
int on_add(struct pt_regs *ctx)
{
	__u32 *slot;
	__u32 value = (__u32)PT_REGS_PARM1(ctx);

	if (value % 1000 == 0) {
		slot = bpf_ringbuf_reserve(&events, sizeof(*slot), 0);
		if (slot) {
			*slot = value;
			bpf_ringbuf_submit(slot, 0);
		}
	}
	return hit(1, PT_REGS_PARM1(ctx) + PT_REGS_PARM2(ctx));
}

SEC("uretprobe")
int on_scaled(struct pt_regs *ctx)
{
	return hit(2, PT_REGS_RC(ctx));
}

SEC("uprobe")
int on_greet(struct pt_regs *ctx)
{
	char name[8] = {};

	bpf_probe_read_user_str(name, sizeof(name), (const void *)PT_REGS_PARM1(ctx));
	return hit(3, (__u64)name[0]);
}

SEC("uprobe")
int on_six(struct pt_regs *ctx)
{
	return hit(4, PT_REGS_PARM5(ctx));
}

SEC("uretprobe")
int on_label(struct pt_regs *ctx)
{
	char first = 0;

	bpf_probe_read_user(&first, sizeof(first), (const void *)PT_REGS_RC(ctx));
	return hit(5, (__u64)first);
}

SEC("uprobe")
int on_step(struct pt_regs *ctx)
{
	return hit(6, ctx->rbx);
}

SEC("uprobe")
int on_lib(struct pt_regs *ctx)
{
	return hit(7, PT_REGS_PARM1(ctx) * bpf_get_attach_cookie(ctx));
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
