#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, long);
	__type(value, long);
} table SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, int);
	__type(value, long);
} cpus SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} ring SEC(".maps");

long hits, returns, plain;

SEC("uprobe")
int on_one(struct pt_regs *ctx)
{
	long key = PT_REGS_PARM1(ctx) & 31, fresh = 0, *value;
	int zero = 0;

	__sync_fetch_and_add(&hits, 1);
	bpf_map_update_elem(&table, &key, &fresh, BPF_NOEXIST);
	value = bpf_map_lookup_elem(&table, &key);
	if (value)
		__sync_fetch_and_add(value, 1);
	value = bpf_map_lookup_elem(&cpus, &zero);
	if (value)
		*value += 1;
	return 0;
}

SEC("uprobe")
int tell_one(struct pt_regs *ctx)
{
	long x = PT_REGS_PARM1(ctx);

	bpf_ringbuf_output(&ring, &x, sizeof(x), 0);
	return 0;
}

SEC("uretprobe")
int on_return(struct pt_regs *ctx)
{
	__sync_fetch_and_add(&returns, 1);
	return 0;
}

SEC("uprobe")
int beside(struct pt_regs *ctx)
{
	__sync_fetch_and_add(&plain, 1);
	return 0;
}

char _license[] SEC("license") = "GPL";
