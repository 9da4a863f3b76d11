/* What the programs here share. Each has one mistake, which docs/howto/verifier-errors.md explains. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

struct value {
	__u64 count;
	__u32 slots[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 128);
	__type(key, __u32);
	__type(value, struct value);
} counts SEC(".maps");
