#include "core.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 10);
	__type(key, u32);
	__type(value, u64);
} counts SEC(".maps");

struct bpf_map;

u64 total;

static long add(struct bpf_map *map, u32 *key, u64 *value, void *context)
{
	total += *value;
	return 0;
}

NOINLINE long global_add(struct bpf_map *map, u32 *key, u64 *value, void *context)
{
	total += *key;
	return 0;
}

static NOINLINE void all(void)
{
	bpf_for_each_map_elem(&counts, add, 0, 0);
}

SEC("raw_tp/sys_exit")
int walk(void *ctx)
{
	all();
	bpf_for_each_map_elem(&counts, add, 0, 0);
	bpf_for_each_map_elem(&counts, global_add, 0, 0);
	return total;
}

SEC("raw_tp/sys_enter")
int walk_again(void *ctx)
{
	bpf_for_each_map_elem(&counts, global_add, 0, 0);
	return 0;
}
