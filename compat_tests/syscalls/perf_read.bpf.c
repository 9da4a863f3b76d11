/* bpf_perf_event_read() and _read_value() where no event is: what they answer. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

enum { EMPTY, CURRENT, BEHIND, FLAGS, VALUE_EMPTY, VALUE_SIZE, ZEROED, RUNS };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u64);
} out SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(max_entries, 4096);
	__uint(key_size, 4);
	__uint(value_size, 4);
} events SEC(".maps");

static void put(__u32 key, __s64 value)
{
	bpf_map_update_elem(&out, &key, &value, 0);
}

SEC("tracepoint/syscalls/sys_enter_getppid") int reads(void *ctx)
{
	struct bpf_perf_event_value value = { 1, 2, 3 };
	char comm[16] = "", small[16] = { 1, 2 };

	bpf_get_current_comm(comm, sizeof(comm));
	if (comm[0] != 'o' || comm[1] != 'v' || comm[2] != 'e' || comm[3] != 'r' || comm[4] != 't')
		return 0;
	put(EMPTY, bpf_perf_event_read(&events, 0));
	put(CURRENT, bpf_perf_event_read(&events, BPF_F_CURRENT_CPU));
	put(BEHIND, bpf_perf_event_read(&events, 4096));
	put(FLAGS, bpf_perf_event_read(&events, 1ULL << 32));
	put(VALUE_EMPTY, bpf_perf_event_read_value(&events, 1, &value, sizeof(value)));
	put(VALUE_SIZE, bpf_perf_event_read_value(&events, 1, (void *)small, sizeof(small)));
	put(ZEROED, !value.counter && !value.enabled && !value.running && !small[0] && !small[1]);
	put(RUNS, 1);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
