/* One path returns with the lock held. */
#include "common.h"

struct locked {
	struct bpf_spin_lock lock;
	__u32 count;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct locked);
} shared SEC(".maps");

SEC("xdp")
int unreleased_lock(struct xdp_md *ctx)
{
	__u32 key = 0;
	struct locked *v = bpf_map_lookup_elem(&shared, &key);

	if (!v)
		return XDP_PASS;
	bpf_spin_lock(&v->lock);
	if (v->count > 100)
		return XDP_DROP;
	v->count++;
	bpf_spin_unlock(&v->lock);
	return XDP_PASS;
}
