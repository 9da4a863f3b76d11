/* What a light skeleton has to make: maps of every kind that it fills, types, programs with CO-RE, functions
 * and symbols of the kernel's. One of the programs is refused if `wanted` is 1. */
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

char LICENSE[] SEC("license") = "GPL";

struct task_struct {
	int tgid;
	struct task_struct *real_parent;
} __attribute__((preserve_access_index));

struct task_struct___other {
	int no_such_field;
} __attribute__((preserve_access_index));

extern void bpf_rcu_read_lock(void) __ksym;
extern void bpf_rcu_read_unlock(void) __ksym;
extern int no_such_function(void) __ksym __weak;
extern const void no_such_symbol __ksym __weak;

const volatile int wanted = 7;
int step = 3;
char text[16] = "begin";
__u64 hits, called, parent, absent = 1;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} ring SEC(".maps");

struct inner {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} first SEC(".maps"), second SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 3);
	__type(key, __u32);
	__array(values, struct inner);
} outer SEC(".maps") = { .values = { [0] = &first, [2] = &second } };

static __noinline int add(__u32 key, __u64 n)
{
	__u64 *value = bpf_map_lookup_elem(&counts, &key);

	if (!value)
		return bpf_map_update_elem(&counts, &key, &n, 0);
	__sync_fetch_and_add(value, n);
	return 0;
}

SEC("uprobe")
int on_target(struct pt_regs *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct task_struct___other *other = (void *)task;
	__u32 two = 2, zero = 0;
	__u64 *value;
	void *map;

	hits += step;
	text[0] = 'B';
	parent = BPF_CORE_READ(task, real_parent, tgid);
	absent = bpf_core_field_exists(other->no_such_field) || no_such_function ||
		 &no_such_symbol != (void *)0;
	add(wanted, 1);
	map = bpf_map_lookup_elem(&outer, &two);
	value = map ? bpf_map_lookup_elem(map, &zero) : (void *)0;
	if (value)
		*value += 10;
	value = bpf_ringbuf_reserve(&ring, 8, 0);
	if (value) {
		*value = hits;
		bpf_ringbuf_submit(value, 0);
	}
	if (wanted == 1)
		return *(int *)bpf_get_current_pid_tgid();
	return 0;
}

SEC("raw_tracepoint/sys_enter")
int on_enter(struct bpf_raw_tracepoint_args *ctx)
{
	bpf_rcu_read_lock();
	if (ctx->args[1] == 110 /* getppid */ && bpf_get_current_pid_tgid() >> 32 == step)
		called++;
	bpf_rcu_read_unlock();
	return 0;
}
