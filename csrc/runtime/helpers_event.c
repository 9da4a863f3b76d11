/* Programs of perf events: what the event itself says. Source: kernel/trace/bpf_trace.c. */
#include "helpers.h"

/* The function does not run, and returns that. Of a kprobe csrc/agent/func.c looks at ip; of an entry in
 * the application whoever has called the image looks at the run. */
HELPER(override_return)
{
	enum { RING = 3 };
	struct shim_pt_regs *regs = (struct shim_pt_regs *)r1;

	UNUSED(r3, r4, r5);
	regs->ax = r2;
	if (regs->cs & RING)
		run->signal |= SHIM_RUN_SKIP;
	else
		regs->ip = 1;
	return 0;
}

/* Events that only run programs, and rings, count nothing that a process could read. */
static long read_event(u64 map, u64 flags, const struct shim_run *run)
{
	const struct shim_map_desc *d = (const struct shim_map_desc *)map;
	const struct shim_perf_slot *slot;
	u32 index = (u32)flags;

	if (flags & ~(u64)BPF_F_INDEX_MASK)
		return -EINVAL;
	if (index == (u32)BPF_F_CURRENT_CPU)
		index = run->vcpu == SHIM_NO_VCPU ? real_cpu() & 0xfff : run->vcpu;
	if (index >= d->max_entries)
		return -E2BIG;
	slot = desc_at(d, (u64)index * d->stride);
	return __atomic_load_n(&slot->word, __ATOMIC_ACQUIRE) ? -EOPNOTSUPP : -ENOENT;
}

HELPER(perf_event_read)
{
	UNUSED(r3, r4, r5);
	return (u64)read_event(r1, r2, run);
}

HELPER(perf_event_read_value)
{
	long err = -EINVAL;

	UNUSED(r5);
	if (r4 == sizeof(struct bpf_perf_event_value))
		err = read_event(r1, r2, run);
	memset((void *)r3, 0, (u32)r4);
	return (u64)err;
}

/* r1: struct shim_perf_data. A clock of a CPU counts the nanoseconds that it has been there. */
HELPER(perf_prog_read_value)
{
	const struct shim_perf_data *data = (const struct shim_perf_data *)r1;
	struct bpf_perf_event_value *value = (struct bpf_perf_event_value *)r2;

	UNUSED(r4, r5, (u64)run);
	if (r3 != sizeof(*value)) {
		memset(value, 0, (u32)r3);
		return (u64)-EINVAL;
	}
	value->counter = value->enabled = value->running = clock_ns(1) - data->since;
	return 0;
}
