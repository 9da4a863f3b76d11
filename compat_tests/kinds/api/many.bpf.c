/* Programs for many functions (checks.py). */
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

extern bool bpf_session_is_return(void) __ksym;
extern __u64 *bpf_session_cookie(void) __ksym;

long entered, returned, slept, by_cookie[8];
long begun, ended, sum;

SEC("uprobe.multi")
int on_entry(struct pt_regs *ctx)
{
	__u64 cookie = bpf_get_attach_cookie(ctx);

	__sync_fetch_and_add(&entered, 1);
	if (cookie < 8)
		__sync_fetch_and_add(&by_cookie[cookie], 1);
	return 0;
}

SEC("uretprobe.multi")
int on_return(struct pt_regs *ctx)
{
	__sync_fetch_and_add(&returned, 1);
	return 0;
}

SEC("uprobe.multi.s")
int on_sleep(struct pt_regs *ctx)
{
	__sync_fetch_and_add(&slept, 1);
	return 0;
}

/* The return adds what the entry has left for it, for even arguments. */
SEC("uprobe.session")
int on_both(struct pt_regs *ctx)
{
	__u64 *cookie = bpf_session_cookie();

	if (bpf_session_is_return()) {
		__sync_fetch_and_add(&ended, 1);
		__sync_fetch_and_add(&sum, *cookie);
		return 0;
	}
	__sync_fetch_and_add(&begun, 1);
	*cookie = PT_REGS_PARM1(ctx) * 10;
	return PT_REGS_PARM1(ctx) & 1;
}

char LICENSE[] SEC("license") = "GPL";
