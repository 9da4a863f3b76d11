#include "core.h"

static volatile int base = 5;
int shared;

static NOINLINE int leaf(int x)
{
	return x * base + shared;
}

NOINLINE int global_leaf(int x)
{
	return leaf(x) + 1;
}

__attribute__((visibility("hidden"))) NOINLINE int hidden_leaf(int x)
{
	return global_leaf(x) ^ leaf(x + 1);
}

static NOINLINE int twice(int x)
{
	return hidden_leaf(x) + hidden_leaf(-x);
}

static long each(u32 index, void *context)
{
	*(u64 *)context += leaf(index);
	return 0;
}

NOINLINE int unused(int x)
{
	return x - 1;
}

SEC("uprobe//proc/self/exe:main")
int BPF_KPROBE(first, int x)
{
	return twice(x) + global_leaf(x);
}

SEC("uretprobe//proc/self/exe:main")
int BPF_KRETPROBE(second, int x)
{
	u64 sum = 0;

	bpf_loop(10, each, &sum, 0);
	return leaf(x) + sum;
}

SEC("uprobe//proc/self/exe:main")
int alone(void *ctx)
{
	return 0;
}

SEC("uprobe//proc/self/exe:main")
int last(void *ctx)
{
	return global_leaf(7) + unused(2);
}
