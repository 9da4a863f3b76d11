/* At each hit of stacks.c: what it was told of is read, and is what it has to be. */
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "counters.h"

enum { EFAULT = 14, HITS = 0, REFUSED = 1, READ = 2, WRONG = 3 };
enum { FAULTS = 1, TEXT = 2, FILL = 0x41, SIZE = 64 };

/* 63 bytes of one kind, less by what was left out, and NUL; what is behind it stays as it was */
static __always_inline int text(const void *at, __u64 less)
{
	char is[SIZE + 8];
	long n, want = SIZE - (long)less;

	__builtin_memset(is, 0x22, sizeof(is));
	n = bpf_probe_read_user_str(is, sizeof(is), at);
	if (n != want || less > 1)
		return 0;
	for (long i = 0; i < SIZE - 2; i++)
		if (is[i] != FILL)
			return 0;
	return (less ? !is[SIZE - 2] && is[SIZE - 1] == 0x22 : is[SIZE - 2] == FILL && !is[SIZE - 1]) &&
	       is[SIZE] == 0x22;
}

SEC("uprobe")
int on_hit(struct pt_regs *ctx)
{
	const void *at = (const void *)PT_REGS_PARM1(ctx);
	__u64 want = PT_REGS_PARM2(ctx), word = 0x2222;
	int what = (int)PT_REGS_PARM3(ctx);
	long ret;

	count(HITS);
	if (what == TEXT) {
		count(text(at, want) ? READ : WRONG);
		return 0;
	}
	ret = bpf_probe_read_user(&word, sizeof(word), at);
	if (what == FAULTS)
		count(ret == -EFAULT && !word ? REFUSED : WRONG);
	else
		count(!ret && word == want ? READ : WRONG);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
