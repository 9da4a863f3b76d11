/* Times and chance where the time stamp counter may not be read: of the program's own way, and ordered. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __s64);
} out SEC(".maps");

static void note(__u32 at, __s64 value)
{
	bpf_map_update_elem(&out, &at, &value, BPF_ANY);
}

SEC("uprobe")
int at_touched(void *ctx)
{
	__u64 first = bpf_ktime_get_ns(), second = bpf_ktime_get_ns();

	note(0, 100 + (first && second >= first));
	return 0;
}

SEC("uprobe")
int at_touched_too(void *ctx)
{
	__u64 now = bpf_ktime_get_ns(), boot = bpf_ktime_get_boot_ns();
	volatile __u32 chance = bpf_get_prandom_u32();

	(void)chance;
	note(1, 100 + (now && boot >= now));
	return 0;
}
