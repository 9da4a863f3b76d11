/* Programs of tools/bench/isolation.py: each once for each class: plain, and isolated by each back end. */
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

struct value {
	__u64 count, sum, least, most;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, struct value);
} slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, struct value);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, struct value);
} per_cpu SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} records SEC(".maps"); /* the loader's, for other programs */

__u64 hits;

static __always_inline void add(struct value *v, __u64 x)
{
	v->count++;
	v->sum += x;
	if (x < v->least)
		v->least = x;
	if (x > v->most)
		v->most = x;
}

static __always_inline void array_of(struct pt_regs *ctx)
{
	__u64 x = PT_REGS_PARM1(ctx);
	__u32 key = x & 63;
	struct value *v = bpf_map_lookup_elem(&slots, &key);

	if (v)
		add(v, x);
}

static __always_inline void hash_of(struct pt_regs *ctx)
{
	__u64 x = PT_REGS_PARM1(ctx), key = x & 63;
	struct value *v = bpf_map_lookup_elem(&counts, &key), fresh = { 1, x, x, x };

	if (v)
		add(v, x);
	else
		bpf_map_update_elem(&counts, &key, &fresh, BPF_ANY);
}

static __always_inline void update_of(struct pt_regs *ctx)
{
	__u64 x = PT_REGS_PARM1(ctx), key = x & 63;
	struct value fresh = { 1, x, x, x };

	bpf_map_update_elem(&counts, &key, &fresh, BPF_ANY);
}

static __always_inline void percpu_of(struct pt_regs *ctx)
{
	__u64 x = PT_REGS_PARM1(ctx);
	__u32 key = x & 63;
	struct value *v = bpf_map_lookup_elem(&per_cpu, &key);

	if (v)
		add(v, x);
}

/* Several maps, as a tool that counts by several keys has them. */
static __always_inline void several_of(struct pt_regs *ctx)
{
	__u64 x = PT_REGS_PARM1(ctx);

	for (__u64 n = 0; n < 8; n++) {
		__u64 key = (x + n) & 63;
		__u32 index = key;
		struct value *v = bpf_map_lookup_elem(&counts, &key), fresh = { 1, x, x, x };

		if (v)
			add(v, x);
		else
			bpf_map_update_elem(&counts, &key, &fresh, BPF_ANY);
		v = bpf_map_lookup_elem(&slots, &index);
		if (v)
			add(v, x);
	}
}

static __always_inline void nothing_of(struct pt_regs *ctx)
{
}

static __always_inline void global_of(struct pt_regs *ctx)
{
	hits++;
}

#define EACH(name) \
	SEC("uprobe") \
	int name##_plain(struct pt_regs *ctx) \
	{ \
		name##_of(ctx); \
		return 0; \
	} \
	SEC("uprobe") \
	int name##_sfi(struct pt_regs *ctx) \
	{ \
		name##_of(ctx); \
		return 0; \
	} \
	SEC("uprobe") \
	int name##_mpk(struct pt_regs *ctx) \
	{ \
		name##_of(ctx); \
		return 0; \
	}

EACH(nothing)
EACH(global)
EACH(array)
EACH(hash)
EACH(update)
EACH(percpu)
EACH(several)

char _license[] SEC("license") = "GPL";
