/* One path returns without giving the record back. */
#include "common.h"

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} events SEC(".maps");

SEC("uprobe")
int leaked_record(struct pt_regs *ctx)
{
	__u64 *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	if (!e)
		return 0;
	*e = bpf_ktime_get_ns();
	if (bpf_get_prandom_u32() & 1)
		return 1;
	bpf_ringbuf_submit(e, 0);
	return 0;
}
