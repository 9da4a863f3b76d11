#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

struct item {
	int number;
	int ran;
};

long before, after, returned, returned_403, turns;

/* Of items with odd numbers. */
static __always_inline int skip_odd(struct pt_regs *ctx, long value)
{
	struct item *item = (struct item *)PT_REGS_PARM1(ctx);

	if (item->number & 1)
		bpf_override_return(ctx, value);
	return 0;
}

SEC("uprobe")
int skip_rule(struct pt_regs *ctx)
{
	return skip_odd(ctx, 403);
}

SEC("uprobe.multi")
int skip_many(struct pt_regs *ctx)
{
	return skip_odd(ctx, 403);
}

SEC("uprobe")
int skip_bump(struct pt_regs *ctx)
{
	return skip_odd(ctx, 0);
}

/* Looks at nothing. */
SEC("uprobe")
int skip_all(struct pt_regs *ctx)
{
	bpf_override_return(ctx, 404);
	return 0;
}

SEC("uprobe")
int see_before(struct pt_regs *ctx)
{
	before++;
	return 0;
}

SEC("uprobe")
int see_after(struct pt_regs *ctx)
{
	struct item *item = (struct item *)PT_REGS_PARM1(ctx);

	after += item->number;
	return 0;
}

SEC("uretprobe")
int see_return(struct pt_regs *ctx)
{
	returned++;
	returned_403 += PT_REGS_RC(ctx) == 403;
	return 0;
}

static long turn(unsigned int n, void *data)
{
	turns++;
	return 0;
}

/* Goes on for longer than it may, when its item has an odd number. */
SEC("uprobe")
int spin(struct pt_regs *ctx)
{
	struct item *item = (struct item *)PT_REGS_PARM1(ctx);

	if (item->number & 1)
		bpf_loop(1 << 22, turn, 0, 0);
	return 0;
}

volatile unsigned int most = 1000;

/* The same with a loop, for a class that is isolated. */
SEC("uprobe")
int spin_within(struct pt_regs *ctx)
{
	struct item *item = (struct item *)PT_REGS_PARM1(ctx);

	if (item->number & 1)
		for (unsigned int i = 0; i < 200 && i < most; i++)
			turns++;
	return 0;
}

SEC("uprobe")
int plain(struct pt_regs *ctx)
{
	return 0;
}

char _license[] SEC("license") = "GPL";
