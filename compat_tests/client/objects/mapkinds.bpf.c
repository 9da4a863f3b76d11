#include "core.h"

struct key {
	u32 pid;
	char comm[16];
};
struct value {
	u64 count;
	struct bpf_spin_lock lock;
};
#define MAP(name, kind, n, ...) \
	struct { \
		__uint(type, kind); \
		__uint(max_entries, n); \
		__VA_ARGS__ \
	} name SEC(".maps")

MAP(hash, BPF_MAP_TYPE_HASH, 100, __type(key, struct key); __type(value, struct value););
MAP(lru, BPF_MAP_TYPE_LRU_HASH, 64, __uint(map_flags, BPF_F_NO_COMMON_LRU); __type(key, u32);
    __type(value, u32););
MAP(percpu, BPF_MAP_TYPE_PERCPU_ARRAY, 3, __type(key, u32); __type(value, struct key););
MAP(percpu_hash, BPF_MAP_TYPE_PERCPU_HASH, 9, __type(key, u64); __type(value, u64););
MAP(lru_percpu, BPF_MAP_TYPE_LRU_PERCPU_HASH, 33, __type(key, u64); __type(value, u64););
MAP(trie, BPF_MAP_TYPE_LPM_TRIE, 7, __uint(map_flags, BPF_F_NO_PREALLOC); __uint(key_size, 8);
    __uint(value_size, 4););
MAP(queue, BPF_MAP_TYPE_QUEUE, 12, __type(value, u32););
MAP(stack, BPF_MAP_TYPE_STACK, 12, __uint(value_size, 8););
MAP(ring, BPF_MAP_TYPE_RINGBUF, 4096 * 3);
MAP(user_ring, BPF_MAP_TYPE_USER_RINGBUF, 100);
MAP(bloom, BPF_MAP_TYPE_BLOOM_FILTER, 100, __uint(map_extra, 4); __uint(value_size, 8););
MAP(events, BPF_MAP_TYPE_PERF_EVENT_ARRAY, 0, __uint(key_size, 4); __uint(value_size, 4););
MAP(stacks, BPF_MAP_TYPE_STACK_TRACE, 10, __uint(key_size, 4); __uint(value_size, 127 * 8););
MAP(cgroups, BPF_MAP_TYPE_CGROUP_ARRAY, 1, __type(key, u32); __type(value, u32););
MAP(task, BPF_MAP_TYPE_TASK_STORAGE, 0, __uint(map_flags, BPF_F_NO_PREALLOC); __type(key, int);
    __type(value, u64););
MAP(pinned, BPF_MAP_TYPE_HASH, 4, __uint(pinning, LIBBPF_PIN_BY_NAME); __type(key, int);
    __type(value, u64););
MAP(shared_array, BPF_MAP_TYPE_ARRAY, 4, __uint(map_flags, BPF_F_MMAPABLE | BPF_F_NUMA_NODE);
    __uint(numa_node, 0); __type(key, u32); __type(value, u64[3]););
MAP(a_map_whose_name_is_longer, BPF_MAP_TYPE_ARRAY, 1, __type(key, u32); __type(value, u32););

SEC("uprobe")
int use(void *ctx)
{
	u32 zero = 0;
	u64 one = 1;

	bpf_map_update_elem(&hash, ctx, ctx, 0);
	bpf_map_update_elem(&lru, &zero, &zero, BPF_NOEXIST);
	bpf_map_push_elem(&queue, &zero, 0);
	bpf_map_push_elem(&stack, &one, 0);
	bpf_map_push_elem(&bloom, &one, 0);
	bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, &one, 8);
	bpf_ringbuf_output(&ring, &one, 8, 0);
	bpf_get_stackid(ctx, &stacks, 0);
	return bpf_map_lookup_elem(&a_map_whose_name_is_longer, &zero) != 0;
}
