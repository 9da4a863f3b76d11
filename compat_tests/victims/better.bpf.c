/* A program that LLVM compiles again while it runs: two loops over its argument, one of them with a
 * callback, and counts that are exact however often a hit's image changes. */
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

struct counts {
	__u64 hits, loop, callback;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counts);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u64);
} by_thread SEC(".maps");

const volatile __u64 salt; /* makes it a program that nobody has compiled before */

struct turn {
	__u64 x, sum;
};

static long step(__u32 i, struct turn *turn)
{
	turn->sum += turn->x >> (8 * (i & 7)) & 255;
	return 0;
}

SEC("uprobe")
int on_value(struct pt_regs *ctx)
{
	struct turn turn = { PT_REGS_PARM1(ctx) ^ salt, 0 };
	__u32 zero = 0, tid = (__u32)bpf_get_current_pid_tgid() & 63;
	struct counts *found = bpf_map_lookup_elem(&counts, &zero);
	__u64 sum = 0, none = 0, *mine;

	if (!found)
		return 0;
#pragma clang loop unroll(disable)
	for (int i = 0; i < 8; i++)
		sum += (turn.x >> (8 * i) & 255) * (i + 1);
	bpf_loop(8, step, &turn, 0);
	__sync_fetch_and_add(&found->hits, 1);
	__sync_fetch_and_add(&found->loop, sum);
	__sync_fetch_and_add(&found->callback, turn.sum);
	mine = bpf_map_lookup_elem(&by_thread, &tid);
	if (!mine) {
		bpf_map_update_elem(&by_thread, &tid, &none, BPF_NOEXIST);
		mine = bpf_map_lookup_elem(&by_thread, &tid);
	}
	if (mine)
		__sync_fetch_and_add(mine, 1);
	return 0;
}

char _license[] SEC("license") = "GPL";
