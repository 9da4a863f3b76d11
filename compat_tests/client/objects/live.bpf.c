#include "core.h"

/* Loaded and run by the tests of the Python API (checks.py). */
#define MAP(name, kind, n, ...) \
	struct { \
		__uint(type, kind); \
		__uint(max_entries, n); \
		__VA_ARGS__ \
	} name SEC(".maps")

struct key {
	u32 pid;
	char comm[16];
};
struct value {
	u64 count;
	s32 last;
	u32 low : 3;
	u32 high : 5;
	union {
		u32 word;
		char bytes[4];
	};
};
struct event {
	u32 pid;
	u32 number;
	char comm[16];
};
struct inner {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, int);
	__type(value, u64);
};

MAP(counts, BPF_MAP_TYPE_HASH, 100, __type(key, struct key); __type(value, struct value););
MAP(plain, BPF_MAP_TYPE_HASH, 4, __type(key, s32); __type(value, s32););
MAP(many, BPF_MAP_TYPE_HASH, 5000, __type(key, u64); __type(value, u64););
MAP(words, BPF_MAP_TYPE_ARRAY, 4, __type(key, u32); __type(value, u64););
MAP(percpu, BPF_MAP_TYPE_PERCPU_ARRAY, 4, __type(key, u32); __type(value, u32););
MAP(untyped, BPF_MAP_TYPE_HASH, 4, __uint(key_size, 3); __uint(value_size, 5););
MAP(queue, BPF_MAP_TYPE_QUEUE, 3, __type(value, u32););
MAP(stack, BPF_MAP_TYPE_STACK, 3, __type(value, u32););
MAP(bloom, BPF_MAP_TYPE_BLOOM_FILTER, 100, __type(value, u32););
MAP(trie, BPF_MAP_TYPE_LPM_TRIE, 10, __uint(map_flags, BPF_F_NO_PREALLOC); __type(
	    key,
	    struct {
		    u32 bits;
		    unsigned char address[4];
	    });
    __type(value, u32););
MAP(ring, BPF_MAP_TYPE_RINGBUF, 4096);
MAP(events, BPF_MAP_TYPE_PERF_EVENT_ARRAY, 0, __uint(key_size, 4); __uint(value_size, 4););
MAP(stacks, BPF_MAP_TYPE_STACK_TRACE, 16, __uint(key_size, 4); __uint(value_size, 8 * 127););
struct inner one SEC(".maps"), two SEC(".maps");
MAP(outer, BPF_MAP_TYPE_ARRAY_OF_MAPS, 3, __type(key, int); __array(values, struct inner);) = {
	.values = { [1] = &one },
};
int tail(struct pt_regs *ctx);
MAP(jumps, BPF_MAP_TYPE_PROG_ARRAY, 2, __uint(key_size, 4); __array(values, int(void *));) = {
	.values = { [1] = (void *)&tail },
};

const volatile int limit = 3;
const volatile char label[8] = "label";
u64 hits, tails, ticks;
int last[2] = { 7, 8 };
struct event *unused = 0;

SEC("uprobe")
int BPF_KPROBE(hit, int a, int b)
{
	struct event event = {};
	struct key key = {};
	struct value *v, zero = {};
	u32 slot = 1, *p;

	key.pid = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(key.comm, sizeof(key.comm));
	bpf_map_update_elem(&counts, &key, &zero, BPF_NOEXIST);
	v = bpf_map_lookup_elem(&counts, &key);
	if (!v)
		return 0;
	__sync_fetch_and_add(&v->count, 1);
	v->last = a - b;
	p = bpf_map_lookup_elem(&percpu, &slot);
	if (p)
		*p += 1;
	__sync_fetch_and_add(&hits, 1);
	last[0] = a;
	last[1] = b;
	event.pid = key.pid;
	event.number = hits;
	__builtin_memcpy(event.comm, key.comm, sizeof(event.comm));
	if (hits > limit)
		return 0;
	bpf_ringbuf_output(&ring, &event, sizeof(event), 0);
	bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, &event, sizeof(event));
	return 0;
}

SEC("?uprobe")
int jump(struct pt_regs *ctx)
{
	bpf_tail_call(ctx, &jumps, 1);
	return 0;
}

SEC("uprobe")
int tail(struct pt_regs *ctx)
{
	__sync_fetch_and_add(&tails, 1);
	return 0;
}

SEC("uretprobe")
int BPF_KRETPROBE(done, int result)
{
	last[0] = result;
	return 0;
}

SEC("uprobe")
int trace(struct pt_regs *ctx)
{
	last[1] = bpf_get_stackid(ctx, &stacks, BPF_F_USER_STACK);
	return 0;
}

SEC("raw_tp")
int sum(struct bpf_raw_tracepoint_args *ctx)
{
	return ctx->args[0] + 2 * ctx->args[1];
}

SEC("perf_event")
int tick(struct bpf_perf_event_data *ctx)
{
	__sync_fetch_and_add(&ticks, 1);
	return 0;
}

SEC("?uprobe")
int refused(struct pt_regs *ctx)
{
	return *(volatile int *)ctx->rdi;
}
