/* ONE: with the first of the functions alone, as applications have that have no other. */
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

struct request {
	int number;
	int status;
	long tokens;
};
struct limits {
	int most;
	unsigned short least;
	struct request *last;
};

extern long spoil(long n) __ksym;
#ifndef ONE
extern long host_five(long a, int b, short c, unsigned char d, signed char e) __ksym;
extern signed char low_byte(long n) __ksym;
extern unsigned short low_half(long n) __ksym;
extern int low_word(long n) __ksym;
extern int is(unsigned char really) __ksym; /* of type bool, which this compiler does not know */
extern void host_count(struct request *r, long more) __ksym;
extern struct request *newest(void) __ksym;
extern int host_fill(char *to, unsigned long size, const char *from) __ksym;
extern void jump_out(int n) __ksym;
extern long again(long n) __ksym;
extern const long served __ksym;
extern const struct limits limits __ksym;
#endif

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __s64);
} out SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __s64);
} each SEC(".maps");

static __always_inline __attribute__((unused)) void put(__u32 at, __s64 value)
{
	__s64 *to = bpf_map_lookup_elem(&out, &at);

	if (to)
		*to = value;
}

static __always_inline void more(__u32 at, __s64 value)
{
	__s64 *to = bpf_map_lookup_elem(&out, &at);

	if (to)
		*to += value;
}

SEC("uprobe")
int calls_spoil(struct pt_regs *ctx)
{
	more(0, 1);
	more(1, spoil(5));
	return 0;
}

#ifndef ONE
SEC("uretprobe")
int calls_exact(struct pt_regs *ctx)
{
	more(0, 1);
	more(1, spoil(5));
	return 0;
}

SEC("uprobe")
int calls_narrow(struct pt_regs *ctx)
{
	more(0, 1);
	put(1, host_five(1, -2, -3, 255, -128));
	put(2, low_byte(0x7fff80));
	put(3, low_half(0x12348765));
	put(4, low_word(0x1ffffffffL));
	put(5, is(6) + is(0));
	return 0;
}

SEC("uprobe")
int calls_count(struct pt_regs *ctx)
{
	struct request *r = (struct request *)PT_REGS_PARM1(ctx);
	struct request *last = newest();

	host_count(r, 2);
	if (last)
		host_count(last, 5);
	more(0, 1);
	return 0;
}

SEC("uprobe")
int calls_fill(struct pt_regs *ctx)
{
	char from[4] = { 'a', 'b', 'c', 'd' }, to[8] = {};

	put(1, host_fill(to, 6, from));
	put(2, *(__s64 *)to);
	return 0;
}

SEC("uprobe")
int reads_state(struct pt_regs *ctx)
{
	more(0, 1);
	put(1, served);
	put(2, limits.most);
	put(3, limits.least);
	put(4, limits.last ? limits.last->number : -1);
	return 0;
}

SEC("uprobe")
int calls_jump(struct pt_regs *ctx)
{
	more(0, 1);
	jump_out(1);
	more(1, 1);
	return 0;
}

SEC("uprobe")
int calls_again(struct pt_regs *ctx)
{
	more(0, 1);
	more(1, again(7));
	return 0;
}

SEC("uprobe")
int counts_each(struct pt_regs *ctx)
{
	__u32 zero = 0;
	__s64 *value = bpf_map_lookup_elem(&each, &zero);

	if (!value)
		return 0;
	*value += 1;
	spoil(1);
	*value += 1;
	return 0;
}

#endif

char _license[] SEC("license") = "Dual BSD/GPL";
