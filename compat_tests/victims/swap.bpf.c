/* A uprobe that goes through maps of maps and a tail call, all of which the loader changes. */
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>

enum { HITS, EMPTY, FELL, FIRST, SECOND, COUNTS };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, COUNTS);
	__type(key, __u32);
	__type(value, __u64);
} tallies SEC(".maps");

struct inner {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct inner);
} by_index SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, 4);
	__type(key, __u64);
	__array(values, struct inner);
} by_key SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} programs SEC(".maps");

static __always_inline void bump(__u32 what)
{
	__u64 *count = bpf_map_lookup_elem(&tallies, &what);

	if (count)
		__sync_fetch_and_add(count, 1);
}

static __always_inline void through(void *map)
{
	__u32 zero = 0;
	__u64 *count;

	if (!map) {
		bump(EMPTY);
		return;
	}
	count = bpf_map_lookup_elem(map, &zero);
	if (count)
		__sync_fetch_and_add(count, 1);
}

SEC("uprobe")
int on_tick(struct pt_regs *ctx)
{
	__u32 zero = 0;
	__u64 seven = 7;

	bump(HITS);
	through(bpf_map_lookup_elem(&by_index, &zero));
	through(bpf_map_lookup_elem(&by_key, &seven));
	bpf_tail_call(ctx, &programs, 0);
	bump(FELL);
	return 0;
}

SEC("uprobe")
int first(struct pt_regs *ctx)
{
	bump(FIRST);
	return 0;
}

SEC("uprobe")
int second(struct pt_regs *ctx)
{
	bump(SECOND);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
