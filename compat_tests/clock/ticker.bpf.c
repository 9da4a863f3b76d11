/* A clock of one process: which thread it ticks in, and what the program is told. */
#include <linux/bpf.h>
#include <linux/bpf_perf_event.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u64);
} out SEC(".maps");

static void add(__u32 at, __u64 more)
{
	__u64 *value = bpf_map_lookup_elem(&out, &at);

	if (value)
		__sync_fetch_and_add(value, more);
}

SEC("perf_event")
int at_tick(struct bpf_perf_event_data *ctx)
{
	__u64 who = bpf_get_current_pid_tgid(), stack[2] = { 0 };
	struct bpf_perf_event_value value = { 0 };

	/* from the last word down: what is read of words in their order never has more in a lower one */
	add(5, bpf_perf_prog_read_value(ctx, (void *)stack, 8) == -22);
	if (bpf_get_stack(ctx, stack, sizeof(stack), BPF_F_USER_STACK) > 0)
		add(4, 1);
	add(3, !bpf_perf_prog_read_value(ctx, &value, sizeof(value)) && value.counter &&
		       value.enabled == value.running);
	add(2, ctx->sample_period == 2000000);
	add(who >> 32 == (__u32)who ? 0 : 1, 1);
	return 0;
}
