#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

struct text {
	unsigned long len;
	const char *data;
};
struct request {
	int number;
	struct text uri;
	int status;
};

const volatile long step = 1;
long hits, bytes;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, long);
	__type(value, long);
} by_length SEC(".maps");

SEC("uprobe")
int watch_uri(struct pt_regs *ctx)
{
	struct request *r = (struct request *)PT_REGS_PARM1(ctx);
	long len = r->uri.len, one = 1, *found;

	hits += step;
	bytes += len;
	found = bpf_map_lookup_elem(&by_length, &len);
	if (found)
		(*found)++;
	else
		bpf_map_update_elem(&by_length, &len, &one, BPF_ANY);
	return 0;
}

SEC("uprobe")
int mark_status(struct pt_regs *ctx)
{
	struct request *r = (struct request *)PT_REGS_PARM1(ctx);

	r->status = 403;
	return 0;
}

SEC("uprobe")
int stranger(struct pt_regs *ctx)
{
	return 0;
}

char _license[] SEC("license") = "GPL";
