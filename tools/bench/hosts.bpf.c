/* Programs of tools/bench/hosts.py, in pairs: what they do with a check, a call, or without. */
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

struct bench_text {
	unsigned long len;
	const char *data;
};

/* The same for two classes: one may read anything, the other as many bytes as there are. */
static __always_inline int read_text(struct pt_regs *ctx)
{
	const struct bench_text *text = (const void *)ctx->rdi;
	char buffer[16];

	bpf_probe_read_user(buffer, sizeof(buffer), text->data);
	return 0;
}

SEC("uprobe")
int any_text(struct pt_regs *ctx)
{
	return read_text(ctx);
}

SEC("uprobe")
int some_text(struct pt_regs *ctx)
{
	return read_text(ctx);
}

static __always_inline int read_length(struct pt_regs *ctx)
{
	const struct bench_text *text = (const void *)ctx->rdi;
	unsigned long len;

	bpf_probe_read_user(&len, sizeof(len), &text->len);
	return 0;
}

SEC("uprobe")
int any_length(struct pt_regs *ctx)
{
	return read_length(ctx);
}

SEC("uprobe")
int some_length(struct pt_regs *ctx)
{
	return read_length(ctx);
}

SEC("uprobe")
int goes_on(struct pt_regs *ctx)
{
	return ctx->rdi == 0;
}

SEC("uprobe")
int skips(struct pt_regs *ctx)
{
	bpf_override_return(ctx, ctx->rdi == 0);
	return 0;
}

volatile unsigned int rounds = 16; /* what the verifier cannot know */
unsigned long sum;

/* The same for two classes: one has no limit, of the other's every round is counted. */
static __always_inline int turn(void)
{
	unsigned long found = 0;

	for (unsigned int i = 0; i < 200 && i < rounds; i++)
		found += found * 31 + i;
	sum = found;
	return 0;
}

SEC("uprobe")
int array_rounds(struct pt_regs *ctx)
{
	return turn();
}

SEC("uprobe")
int counted_rounds(struct pt_regs *ctx)
{
	return turn();
}

SEC("uprobe")
int array_proved(struct pt_regs *ctx)
{
	count(&counters);
	return 0;
}

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64[64]);
} table SEC(".maps");

/* Eight values at an index that a branch bounds, of classes that hold processors more or less. */
static __always_inline int indexed(void)
{
	__u32 zero = 0;
	__u64 *values = bpf_map_lookup_elem(&table, &zero), found = 0;

	if (!values)
		return 0;
#pragma unroll
	for (int i = 0; i < 8; i++) {
		volatile __u64 *at = values;
		__u64 index = rounds + i * 5; /* read each time */

		if (index < 64)
			found += at[index];
	}
	sum = found;
	return 0;
}

SEC("uprobe")
int array_indexed(struct pt_regs *ctx)
{
	return indexed();
}

SEC("uprobe")
int masked_indexed(struct pt_regs *ctx)
{
	return indexed();
}

SEC("uprobe")
int full_indexed(struct pt_regs *ctx)
{
	return indexed();
}

char _license[] SEC("license") = "Dual BSD/GPL";
