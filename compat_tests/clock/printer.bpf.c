/* Lines of the trace pipe, in each of the ways there are to make them. */
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "note.h"

char LICENSE[] SEC("license") = "GPL";

SEC("uprobe")
int BPF_KPROBE(at_spoken, const char *text, long number)
{
	char plain[] = "plain %d %s\n", three[] = "%x %u %llx";
	char bytes[16] = "", unknown[] = "%q", many[] = "%d %d %d %d",
	     open[] = { 'n', 'o', ' ', 'e', 'n', 'd' };

	bpf_probe_read_user(bytes, sizeof(bytes) - 1, text);
	note(0, bpf_trace_printk(plain, sizeof(plain), (int)number, bytes));
	note(1, bpf_trace_printk(three, sizeof(three), number, number, number));
	note(2, -bpf_trace_printk(unknown, sizeof(unknown), 1));
	note(3, -bpf_trace_printk(many, sizeof(many), 1, 2, 3));
	note(4, -bpf_trace_printk(open, sizeof(open)));
	bpf_printk("[%5d] [%-5d] [%05d] [%+d] [% d] %%", number, number, number, number, number);
	bpf_printk("[%8s] [%-8s] [%c] %lx %X", "right", "left", 'c', number, number);
	bpf_printk("%pi4 %pI4 %pi6 %pI6", bytes, bytes, bytes, bytes);
	bpf_printk("[%s] [%pus] [%px]", (char *)8, text, number);
	bpf_printk("%d %i %u %ld %lld %d %d %d %d %d %d %d", -1, -2, -3, -4L, -5LL, 6, 7, 8, 9, 10, 11,
		   12);
	return 0;
}

SEC("uprobe")
int BPF_KPROBE(at_flooded, long number)
{
	bpf_printk("flood %ld", number);
	return 0;
}
