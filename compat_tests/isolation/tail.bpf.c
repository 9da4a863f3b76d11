#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 2);
	__type(key, int);
	__type(value, int);
} progs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} events SEC(".maps");

long called, fell_through, looped;

SEC("uprobe")
int calls(struct pt_regs *ctx)
{
	bpf_tail_call(ctx, &progs, 1);
	fell_through++;
	return 0;
}

static long add(unsigned int n, long *sum)
{
	*sum += n;
	return 0;
}

SEC("uprobe")
int is_called(struct pt_regs *ctx)
{
	long *record, sum = 0;

	called++;
	bpf_loop(5, add, &sum, 0);
	looped += sum;
	record = bpf_ringbuf_reserve(&events, sizeof(*record), 0);
	if (record) {
		*record = called;
		bpf_ringbuf_submit(record, 0);
	}
	bpf_printk("called %ld", called);
	return 0;
}

SEC("uprobe")
int of_another(struct pt_regs *ctx)
{
	called += 1000;
	return 0;
}

char _license[] SEC("license") = "GPL";
