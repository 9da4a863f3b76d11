/* Programs and maps that bpftool loads, pins, shows, dumps and runs (clients/bpftool_cases.py). */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct pair {
	__u32 first;
	__u16 second[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, struct pair);
} pairs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
#ifndef NO_PINS
	__uint(pinning, LIBBPF_PIN_BY_NAME);
#endif
} by_name SEC(".maps");

/* What a kernel rewrites nothing of: no map lookup, no field of a context that is not its own. */
SEC("raw_tracepoint/sys_enter")
int straight(struct bpf_raw_tracepoint_args *ctx)
{
	__u64 sum = ctx->args[0] * 3 + 0x1122334455667788ULL;
	char name[16];

	if (bpf_get_current_comm(name, sizeof(name)))
		return 0;
	for (int i = 0; i < 3; i++)
		if (name[i] == 's')
			sum ^= bpf_ktime_get_ns() >> 7;
	return (int)(sum & 0x7fff);
}

static __attribute__((noinline)) int twice(__u64 value)
{
	return (int)(value * 2);
}

SEC("raw_tracepoint/sys_exit")
int calls_twice(struct bpf_raw_tracepoint_args *ctx)
{
	return twice(ctx->args[1]);
}

SEC("raw_tracepoint/sys_enter")
int uses_maps(struct bpf_raw_tracepoint_args *ctx)
{
	struct pair pair = { .first = (__u32)ctx->args[0], .second = { 7, 8 } };
	__u32 key = 1;
	__u64 *count = bpf_map_lookup_elem(&by_name, &key);

	if (count)
		__sync_fetch_and_add(count, 1);
	bpf_map_update_elem(&pairs, &key, &pair, BPF_ANY);
	return 0;
}

SEC("xdp")
int first_byte(struct xdp_md *ctx)
{
	unsigned char *data = (unsigned char *)(long)ctx->data;

	if (data + 1 > (unsigned char *)(long)ctx->data_end)
		return XDP_ABORTED;
	return data[0];
}

char _license[] SEC("license") = "GPL";
