/* Programs of tools/bench/hosts.py: a counter each, with a call of the application's function and
 * without. */
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>

extern long f_push(long x) __ksym;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} per_cpu SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} records SEC(".maps"); /* the loader's, for other programs */

static __always_inline void count(void *map)
{
	__u32 zero = 0;
	__u64 *value = bpf_map_lookup_elem(map, &zero);

	if (value)
		*value += 1;
}

SEC("uprobe")
int array(struct pt_regs *ctx)
{
	count(&counters);
	return 0;
}

SEC("uprobe")
int array_call(struct pt_regs *ctx)
{
	count(&counters);
	f_push(1);
	return 0;
}

SEC("uprobe")
int percpu(struct pt_regs *ctx)
{
	count(&per_cpu);
	return 0;
}

SEC("uprobe")
int percpu_call(struct pt_regs *ctx)
{
	count(&per_cpu);
	f_push(1);
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
