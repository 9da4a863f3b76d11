/* Probes with the arguments (file, function, line), as python's: how often, by function, line and the
 * cookie of the probe. */
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include <bpf/usdt.bpf.h>

struct call {
	char name[32];
	long line;
	long cookie;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, struct call);
	__type(value, long);
} calls SEC(".maps");

SEC("usdt")
int BPF_USDT(on_function, const char *file, const char *name, int line)
{
	struct call call = { .line = line, .cookie = bpf_usdt_cookie(ctx) };
	long one = 1, *count;

	bpf_probe_read_user_str(call.name, sizeof(call.name), name);
	if (call.name[0] != 'k' || call.name[1] != '_') /* of other scripts */
		return 0;
	count = bpf_map_lookup_elem(&calls, &call);
	if (count)
		__sync_fetch_and_add(count, 1);
	else
		bpf_map_update_elem(&calls, &call, &one, BPF_NOEXIST);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
