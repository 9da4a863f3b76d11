/* What a program tells of itself, by place. Included behind bpf_helpers.h. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __s64);
} out SEC(".maps");

static void note(__u32 at, __s64 value)
{
	bpf_map_update_elem(&out, &at, &value, BPF_ANY);
}
