/* Stacks by build-id and offset: of bpf_get_stack() and of a map of such stacks. */
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u64);
} out SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_STACK_TRACE);
	__uint(max_entries, 16);
	__uint(map_flags, BPF_F_STACK_BUILD_ID);
	__uint(key_size, 4);
	__uint(value_size, 8 * sizeof(struct bpf_stack_build_id));
} stacks SEC(".maps");

static void note(__u32 at, __u64 value)
{
	bpf_map_update_elem(&out, &at, &value, BPF_ANY);
}

SEC("uprobe")
int BPF_KPROBE(at_flooded, long number)
{
	struct bpf_stack_build_id frame[2] = { 0 };
	__u64 head;

	note(0, bpf_get_stack(ctx, frame, sizeof(frame), BPF_F_USER_STACK | BPF_F_USER_BUILD_ID));
	for (int i = 0; i < 2; i++) {
		__builtin_memcpy(&head, frame[i].build_id, 8);
		note(1 + 3 * i, frame[i].status);
		note(2 + 3 * i, frame[i].offset);
		note(3 + 3 * i, head);
	}
	note(7, 1 + bpf_get_stackid(ctx, &stacks, BPF_F_USER_STACK) < 17);
	return 0;
}
