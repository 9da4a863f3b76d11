/* What a program may do to whom it interrupts: signals, its memory. */
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "note.h"

char LICENSE[] SEC("license") = "GPL";

SEC("uprobe")
int BPF_KPROBE(at_signalled, long number, long thread)
{
	note(0, 100 + (thread ? bpf_send_signal_thread(number) : bpf_send_signal(number)));
	return 0;
}

SEC("uprobe")
int BPF_KPROBE(at_misused, long number)
{
	note(1, -bpf_send_signal(number));
	note(2, -bpf_send_signal_thread(number));
	return 0;
}

#ifdef WRITES
SEC("uprobe")
int BPF_KPROBE(at_written, void *place, void *constant)
{
	long fresh = 0x1122334455667788;

	note(3, 100 + bpf_probe_write_user(place, &fresh, sizeof(fresh)));
	note(4, -bpf_probe_write_user(constant, &fresh, sizeof(fresh)));
	note(5, -bpf_probe_write_user((void *)8, &fresh, sizeof(fresh)));
	return 0;
}
#endif
