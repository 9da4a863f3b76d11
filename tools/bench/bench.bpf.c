/* Programs of the benchmark: nothing, one map operation each, arguments of a USDT probe. */
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include <bpf/usdt.bpf.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} per_cpu SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u64);
} by_pid SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u64);
} by_thread SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u64);
} lately SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} records SEC(".maps");

struct record {
	__u64 words[8];
};

SEC("uprobe")
int empty(struct pt_regs *ctx)
{
	return 0;
}

SEC("uprobe")
int array(struct pt_regs *ctx)
{
	__u32 key = 1;
	__u64 *value = bpf_map_lookup_elem(&counters, &key);

	if (value)
		__sync_fetch_and_add(value, 1);
	return 0;
}

SEC("uprobe")
int percpu(struct pt_regs *ctx)
{
	__u32 key = 1;
	__u64 *value = bpf_map_lookup_elem(&per_cpu, &key);

	if (value)
		*value += 1;
	return 0;
}

SEC("uprobe")
int hash(struct pt_regs *ctx)
{
	__u32 key = bpf_get_current_pid_tgid() >> 32;
	__u64 one = 1, *value = bpf_map_lookup_elem(&by_pid, &key);

	if (value)
		__sync_fetch_and_add(value, 1);
	else
		bpf_map_update_elem(&by_pid, &key, &one, BPF_ANY);
	return 0;
}

SEC("uprobe")
int update(struct pt_regs *ctx)
{
	__u32 key = bpf_get_current_pid_tgid() >> 32;
	__u64 next = 1, *value = bpf_map_lookup_elem(&by_pid, &key);

	if (value)
		next = *value + 1;
	bpf_map_update_elem(&by_pid, &key, &next, BPF_ANY);
	return 0;
}

SEC("uprobe")
int ring(struct pt_regs *ctx)
{
	struct record *record = bpf_ringbuf_reserve(&records, sizeof(*record), 0);

	if (!record)
		return 0;
	for (int i = 0; i < 8; i++)
		record->words[i] = i;
	bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
	return 0;
}

/* Of a key that the thread alone has. */
SEC("uprobe")
int own(struct pt_regs *ctx)
{
	__u32 key = bpf_get_current_pid_tgid();
	__u64 one = 1, *value = bpf_map_lookup_elem(&by_thread, &key);

	if (value)
		__sync_fetch_and_add(value, 1);
	else
		bpf_map_update_elem(&by_thread, &key, &one, BPF_ANY);
	return 0;
}

SEC("uprobe")
int own_update(struct pt_regs *ctx)
{
	__u32 key = bpf_get_current_pid_tgid();
	__u64 next = 1;

	bpf_map_update_elem(&by_thread, &key, &next, BPF_ANY);
	return 0;
}

SEC("uprobe")
int own_lru(struct pt_regs *ctx)
{
	__u32 key = bpf_get_current_pid_tgid();
	__u64 next = 1;

	bpf_map_update_elem(&lately, &key, &next, BPF_ANY);
	return 0;
}

/* As target.c's struct bench_text. */
SEC("uprobe")
int text(struct pt_regs *ctx)
{
	struct {
		unsigned long len;
		const char *data;
	} head;
	char copy[32];

	if (bpf_probe_read_user(&head, sizeof(head), (const void *)PT_REGS_PARM1(ctx)))
		return 0;
	return bpf_probe_read_user_str(copy, sizeof(copy), head.data) == 7;
}

SEC("usdt")
int BPF_USDT(two, long first, int second)
{
	return first + second == 0x123456789;
}

SEC("tracepoint/syscalls/sys_enter_getppid")
int call(void *ctx)
{
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
