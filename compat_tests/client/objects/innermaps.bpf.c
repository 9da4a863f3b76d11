#include "core.h"

struct inner {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, int);
	__type(value, u64);
} one SEC(".maps"), two SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 5);
	__type(key, int);
	__array(values, struct inner);
} outer SEC(".maps") = {
	.values = { [1] = &one, [3] = &two },
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, 8);
	__uint(key_size, 4);
	__array(
		values, struct {
			__uint(type, BPF_MAP_TYPE_RINGBUF);
			__uint(max_entries, 5000);
		});
} rings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 2);
	__uint(key_size, 4);
	__uint(value_size, 4);
	__array(
		values, struct {
			__uint(type, BPF_MAP_TYPE_HASH);
			__uint(max_entries, 16);
			__uint(map_flags, BPF_F_NO_PREALLOC);
			__type(
				key, struct {
					int a;
					int b;
				});
			__type(value, char[24]);
		});
} hashes SEC(".maps");

SEC("raw_tp")
int find(void *ctx)
{
	int key = 1;
	void *map = bpf_map_lookup_elem(&outer, &key);
	u64 *value = map ? bpf_map_lookup_elem(map, &key) : 0;

	if (!bpf_map_lookup_elem(&rings, &key) || !bpf_map_lookup_elem(&hashes, &key))
		return 1;
	return value ? *value : bpf_map_lookup_elem(&one, &key) != 0;
}
