/* Events to the loader. Source of checks: kernel/trace/bpf_trace.c, kernel/bpf/ringbuf.c. */
#include "helpers.h"

HELPER(perf_event_output)
{
	const struct shim_map_desc *d = (const struct shim_map_desc *)r2;
	u32 index = (u32)r3;

	UNUSED(r1);
	if (r3 & ~(u64)BPF_F_INDEX_MASK)
		return (u64)-EINVAL;
	if (index == (u32)BPF_F_CURRENT_CPU)
		index = run->vcpu == SHIM_NO_VCPU ? real_cpu() & 0xfff : run->vcpu;
	if (index >= d->max_entries)
		return (u64)-E2BIG;
	return (u64)perf_ring_output(desc_at(d, (u64)index * d->stride), (const void *)r4, r5, run);
}

HELPER(ringbuf_output)
{
	UNUSED(r5);
	return (u64)ringbuf_output((const struct shim_map_desc *)r1, (const void *)r2, r3, r4, run);
}

HELPER(ringbuf_reserve)
{
	UNUSED(r4, r5);
	return r3 ? 0 : (u64)ringbuf_reserve((const struct shim_map_desc *)r1, r2, run);
}

HELPER(ringbuf_submit)
{
	UNUSED(r3, r4, r5);
	return ringbuf_commit((void *)r1, r2, 0, run);
}

HELPER(ringbuf_discard)
{
	UNUSED(r3, r4, r5);
	return ringbuf_commit((void *)r1, r2, 1, run);
}

HELPER(ringbuf_query)
{
	UNUSED(r3, r4, r5, (u64)run);
	return ringbuf_query((const struct shim_map_desc *)r1, r2);
}
