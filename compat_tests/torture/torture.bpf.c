/* Programs of the torture test: each counts under its attachment's cookie. */
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

typedef __u64 u64;
typedef __u32 u32;

enum { PROBES = 1024 };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PROBES);
	__type(key, u32);
	__type(value, u64);
} counts SEC(".maps"), churned SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PROBES);
	__type(key, u32);
	__type(value, u64);
} percpu SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PROBES);
	__type(key, u64);
	__type(value, u64);
} table SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} ring SEC(".maps");

static int count(struct pt_regs *ctx)
{
	u32 key = bpf_get_attach_cookie(ctx);
	u64 *number = bpf_map_lookup_elem(&counts, &key);

	if (number)
		__sync_fetch_and_add(number, 1);
	return 0;
}

/* Attached from before the first call to after the last. Without a lock, so it is missed only
 * in handlers of handlers, and deeper than slots reach. */
SEC("uprobe")
int steady(struct pt_regs *ctx)
{
	return count(ctx);
}

/* The same, on returns of functions that do not always return. */
SEC("uretprobe")
int leaving(struct pt_regs *ctx)
{
	return count(ctx);
}

/* Comes and goes: storage of a CPU, a lock, a ring. */
SEC("uprobe")
int churn(struct pt_regs *ctx)
{
	u64 cookie = bpf_get_attach_cookie(ctx), sp = PT_REGS_SP(ctx);
	u32 key = cookie;
	u64 *count = bpf_map_lookup_elem(&churned, &key);

	if (count)
		__sync_fetch_and_add(count, 1);
	count = bpf_map_lookup_elem(&percpu, &key);
	if (count)
		*count += 1;
	if (key % 3 == 0)
		bpf_map_update_elem(&table, &cookie, &sp, BPF_ANY);
	else if (key % 3 == 1)
		bpf_ringbuf_output(&ring, &cookie, sizeof(cookie), 0);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
