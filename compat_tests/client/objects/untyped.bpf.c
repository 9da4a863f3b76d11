#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

/* Compiled without -g. */
static __attribute__((noinline)) int half(int x)
{
	return x / 2u;
}

SEC("socket")
int filter(struct __sk_buff *skb)
{
	return half(skb->len) + half(skb->mark);
}

char LICENSE[] SEC("license") = "GPL";
