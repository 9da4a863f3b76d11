/* Raw tracepoints: the registers of a call as they are read by pointer, and its number and result. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

enum { CALLS, ADDRESSES, NOT_YET, LEFT, SUM, GETPID = 39 };
enum { AX = 80, ORIG_AX = 120, IP = 128 }; /* in struct pt_regs of x86-64 */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, __u64);
} out SEC(".maps");

static void add(__u32 key, __u64 n)
{
	__u64 *value = bpf_map_lookup_elem(&out, &key);

	if (value)
		__sync_fetch_and_add(value, n);
}

static __u64 reg(const struct bpf_raw_tracepoint_args *ctx, int at)
{
	__u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), (void *)(ctx->args[0] + at));
	return value;
}

SEC("raw_tp/sys_enter") int entered(struct bpf_raw_tracepoint_args *ctx)
{
	if (ctx->args[1] != GETPID)
		return 0;
	add(CALLS, 1);
	add(ADDRESSES, reg(ctx, IP) != 0);
	add(NOT_YET, (long)reg(ctx, AX) == -38); /* -ENOSYS */
	return 0;
}

SEC("raw_tp/sys_exit") int left(struct bpf_raw_tracepoint_args *ctx)
{
	if (reg(ctx, ORIG_AX) != GETPID)
		return 0;
	add(LEFT, 1);
	add(SUM, ctx->args[1]);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
