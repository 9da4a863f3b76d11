/* At each hit: reads where nothing is, each of which must answer -EFAULT, and one of the stack. */
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "counters.h"

enum { EFAULT = 14, HITS = 0, REFUSED = 1, READ = 2, WRONG = 3 };

static __always_inline void bad(unsigned long address)
{
	char text[64];
	__u64 word;

	count(bpf_probe_read_user(&word, 8, (void *)address) == -EFAULT ? REFUSED : WRONG);
	count(bpf_probe_read_user_str(text, sizeof(text), (void *)address) == -EFAULT ? REFUSED
										      : WRONG);
	count(bpf_probe_read_kernel(&word, 8, (void *)address) == -EFAULT ? REFUSED : WRONG);
}

SEC("uprobe")
int on_hit(struct pt_regs *ctx)
{
	__u64 word;

	count(HITS);
	bad(0x10);
	bad(0x7fffffffe000);
	bad(0x8000000000000000);
	bad(0xffffffff81000000);
	count(bpf_probe_read_user(&word, 8, (void *)PT_REGS_SP(ctx)) ? WRONG : READ);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
