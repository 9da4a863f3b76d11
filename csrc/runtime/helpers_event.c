/* Programs of perf events: what the event itself says. Source: kernel/trace/bpf_trace.c. */
#include "helpers.h"

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
