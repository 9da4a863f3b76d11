#include "core.h"

int tail_two(void *ctx);
int tail_four(void *ctx);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 6);
	__uint(key_size, 4);
	__array(values, int(void *));
} jumps SEC(".maps") = {
	.values = { [2] = (void *)&tail_two, [4] = (void *)&tail_four },
};

int seen;

SEC("kprobe/two")
int tail_two(void *ctx)
{
	seen |= 2;
	return 0;
}

SEC("kprobe/four")
int tail_four(void *ctx)
{
	seen |= 4;
	return 0;
}

SEC("kprobe/entry")
int entry(void *ctx)
{
	bpf_tail_call(ctx, &jumps, 2);
	bpf_tail_call_static(ctx, &jumps, 4);
	return 0;
}
