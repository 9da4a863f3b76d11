/* A raw tracepoint that no process comes by. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

SEC("raw_tp/" TRACEPOINT) int elsewhere(void *ctx)
{
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
