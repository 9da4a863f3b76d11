/* Times and chance where the time stamp counter may not be read: of the program's own way, and ordered. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "note.h"

char LICENSE[] SEC("license") = "GPL";

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
