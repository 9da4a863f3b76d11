/* Programs whose work runs later, or that throw; each right or wrong in one way. */
#include "owned.h"

private(A) struct bpf_spin_lock lock;

struct tw {
	struct bpf_task_work tw;
	__u64 x;
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, int);
	__type(value, struct tw);
} twmap SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4);
	__type(key, int);
	__type(value, struct tw);
} twmap2 SEC(".maps");

static int tw_cb(struct bpf_map *map, void *key, void *value)
{
	struct tw *t = value;
	t->x++;
	return 77;
}
static int tw_cb_sleep(struct bpf_map *map, void *key, void *value)
{
	char b[8];
	bpf_copy_from_user_str(b, 8, 0, 0);
	return 0;
}
#define TW(cb, m, v) \
	({ \
		int k = 0; \
		struct task_struct *t = bpf_task_from_pid(1); \
		if (!t) \
			return 0; \
		struct tw *w = bpf_map_lookup_elem(&v, &k); \
		if (w) \
			bpf_task_work_schedule_signal_impl(t, &w->tw, &m, cb, 0); \
		bpf_task_release(t); \
	})
SEC("syscall") int tw_ok(void *ctx)
{
	TW(tw_cb, twmap, twmap);
	return 0;
}
SEC("perf_event") int tw_perf(void *ctx)
{
	TW(tw_cb_sleep, twmap2, twmap2);
	return 0;
}
SEC("syscall") int tw_wrong_map(void *ctx)
{
	TW(tw_cb, twmap2, twmap);
	return 0;
}
SEC("syscall") int tw_null_task(void *ctx)
{
	int k = 0;
	struct tw *w = bpf_map_lookup_elem(&twmap, &k);
	if (w)
		bpf_task_work_schedule_signal_impl(0, &w->tw, &twmap, tw_cb, 0);
	return 0;
}
SEC("syscall") int tw_touch(void *ctx)
{
	int k = 0;
	struct tw *w = bpf_map_lookup_elem(&twmap, &k);
	if (w)
		*(__u64 *)w = 1;
	return 0;
}
SEC("syscall") int tw_no_cb(void *ctx)
{
	TW((void *)(long)in, twmap, twmap);
	return 0;
}
static __noinline int thrower(int x)
{
	if (x > 3)
		bpf_throw(x);
	return x;
}
SEC("tc") int throws(void *ctx)
{
	return thrower(in);
}
SEC("tc") int throws_held(void *ctx)
{
	struct thing *n = bpf_obj_new(struct thing);
	if (!n)
		return 0;
	thrower(in);
	bpf_obj_drop_impl(n, 0);
	return 0;
}
SEC("tc") int throws_locked(void *ctx)
{
	bpf_spin_lock(&lock);
	thrower(in);
	bpf_spin_unlock(&lock);
	return 0;
}
__noinline int thrower_g(int x)
{
	if (x > 3)
		bpf_throw(x);
	return x;
}
SEC("tc") int throws_g_held(void *ctx)
{
	struct thing *n = bpf_obj_new(struct thing);
	if (!n)
		return 0;
	thrower_g(in);
	bpf_obj_drop_impl(n, 0);
	return 0;
}
SEC("cgroup_skb/ingress") int throws_range(void *ctx)
{
	bpf_throw(7);
	return 1;
}
SEC("cgroup_skb/ingress") int throws_in_range(void *ctx)
{
	bpf_throw(1);
	return 1;
}
