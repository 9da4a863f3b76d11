/* At each hit: takes an element out of a hash and puts it in again, both under its bucket's lock. */
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>

#include "counters.h"

enum { ENOENT = 2, EBUSY = 16, HITS = 0, DONE = 1, BUSY = 2, WRONG = 3 };

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u64);
} hash SEC(".maps");

static __always_inline void judge(long err)
{
	count(err == 0 || err == -ENOENT ? DONE : err == -EBUSY ? BUSY : WRONG);
}

SEC("uprobe")
int on_hit(struct pt_regs *ctx)
{
	__u64 value = 1;
	__u32 key = 0;

	count(HITS);
	judge(bpf_map_delete_elem(&hash, &key));
	judge(bpf_map_update_elem(&hash, &key, &value, BPF_ANY));
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
