#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>

extern long rights(void) __ksym;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __s64);
} out SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __s64);
} each SEC(".maps");

/* Maps are reached before the call and behind it. */
SEC("uprobe")
int calls_rights(struct pt_regs *ctx)
{
	__u32 zero = 0, one = 1;
	__s64 *runs = bpf_map_lookup_elem(&out, &zero), *seen = bpf_map_lookup_elem(&out, &one), *sum;

	if (!runs || !seen)
		return 0;
	*runs += 1;
	*seen = rights();
	sum = bpf_map_lookup_elem(&each, &zero);
	if (sum)
		*sum += 1;
	return 0;
}

char _license[] SEC("license") = "GPL";
