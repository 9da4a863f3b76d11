/* The second program reads what it may not. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";
int runs;

SEC("raw_tracepoint/sys_enter")
int fine(void *ctx)
{
	runs++;
	return 0;
}

SEC("raw_tracepoint/sys_exit")
int refused(__u64 *ctx)
{
	return *(int *)ctx[0];
}
