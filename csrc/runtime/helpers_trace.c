/*
 * Lines of the trace pipe: bpf_trace_printk() and its kin write them, as they are to be read, into a
 * ring of the perf area, from which the backend fills the pipe (backend/tracepipe.py). Source:
 * kernel/trace/bpf_trace.c; the line's head: kernel/trace/trace_output.c, trace_print_context().
 */
#include "format.h"
#include "helpers.h"

enum { NR_PRCTL = 157, PR_GET_NAME_ = 16, COMM_LEN = 16, TEXT = 1024, HEAD = 80, ARGS = 3 };

static const char head[] = "%16s-%-7d [%03d] ...11 %5llu.%06llu: bpf_trace_printk: ";

/* The text, cut as the kernel cuts it, behind a head; -ENOSPC: nobody has emptied the ring. */
static void line(char *out, u64 text, struct shim_run *run)
{
	struct shim_ctl *ctl = (struct shim_ctl *)run->ctl;
	u64 ring = __atomic_load_n(&ctl->trace_ring, __ATOMIC_ACQUIRE), now = clock_ns(1) / 1000;
	char comm[COMM_LEN + 1] = { 0 };
	u64 args[5] = { (u64)comm, current_tid(run), real_cpu() & 0xfff, now / 1000000, now % 1000000 };
	struct shim_perf_slot slot = { .word = ring };
	char front[HEAD];
	u64 n;

	if (!ring)
		return;
	shim_sys2(NR_PRCTL, PR_GET_NAME_, comm);
	n = (u64)format_text(front, sizeof(front), head, sizeof(head), args, 5);
	/* out has room for the head before the text */
	memcpy(out + HEAD - n, front, n);
	if (text > TEXT - 1)
		text = TEXT - 1;
	out[HEAD + text] = '\n';
	perf_ring_output(&slot, out + HEAD - n, n + text + 1, run);
	__atomic_add_fetch(&ctl->trace_seq, 1, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&ctl->trace_waiters, __ATOMIC_SEQ_CST))
		futex_wake(&ctl->trace_seq);
}

static long print(const char *fmt, u64 size, const u64 *args, u32 nr, struct shim_run *run)
{
	char out[HEAD + TEXT + 1];
	long n = format_text(out + HEAD, TEXT, fmt, size, args, nr);

	if (n >= 0)
		line(out, (u64)n, run);
	return n;
}

HELPER(trace_printk)
{
	u64 args[ARGS] = { r3, r4, r5 };

	return (u64)print((const char *)r1, (u32)r2, args, ARGS, run);
}

static bool sane(u64 args, u64 size)
{
	return !(size % 8) && size <= FORMAT_ARGS * 8 && (args || !size);
}

HELPER(trace_vprintk)
{
	u32 size = (u32)r4;

	UNUSED(r5);
	if (!sane(r3, size))
		return (u64)-EINVAL;
	return (u64)print((const char *)r1, (u32)r2, (const u64 *)r3, size / 8, run);
}

/* The length with its NUL. */
HELPER(snprintf)
{
	u32 size = (u32)r5;
	long n;

	UNUSED((u64)run);
	if (!sane(r4, size))
		return (u64)-EINVAL;
	n = format_text((char *)r1, (u32)r2, (const char *)r3, ~0ull, (const u64 *)r4, size / 8);
	return (u64)(n < 0 ? n : n + 1);
}
