/* Programs of perf events: what the event itself says. Source: kernel/trace/bpf_trace.c. */
#include "helpers.h"

/* Of a kprobe: the function does not run, and returns that (csrc/agent/func.c looks at ip). */
HELPER(override_return)
{
	struct shim_pt_regs *regs = (struct shim_pt_regs *)r1;

	UNUSED(r3, r4, r5, (u64)run);
	regs->ax = r2;
	regs->ip = 1;
	return 0;
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
