/* Loops over numbers as libbpf's bpf_for() and bpf_repeat() expand to, and dynptrs of a packet. */
#include <linux/bpf.h>
#include <linux/version.h>
#include <bpf/bpf_helpers.h>

#define KSYM __attribute__((section(".ksyms")))

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 4, 0) /* later headers have it */
struct bpf_iter_num {
	__u64 opaque[1];
} __attribute__((aligned(8)));
#endif

extern int bpf_iter_num_new(struct bpf_iter_num *it, int start, int end) KSYM;
extern int *bpf_iter_num_next(struct bpf_iter_num *it) KSYM;
extern void bpf_iter_num_destroy(struct bpf_iter_num *it) KSYM;
extern int bpf_dynptr_from_skb(struct __sk_buff *skb, __u64 flags, struct bpf_dynptr *to) KSYM;
extern void *bpf_dynptr_slice(const struct bpf_dynptr *p, __u32 off, void *buf, __u32 size) KSYM;

/* naming the destructor makes clang 14 write BTF for it */
#define each(at, start, end) \
	for (struct bpf_iter_num it __attribute__((cleanup(bpf_iter_num_destroy))), \
	     *made __attribute__((unused)) = \
		     (bpf_iter_num_new(&it, (start), (end)), (void)bpf_iter_num_destroy, (void *)0); \
	     (at = bpf_iter_num_next(&it));)

char _license[] SEC("license") = "GPL";

SEC("tc")
int loops(struct __sk_buff *skb)
{
	int *at, *inner, total = 0, rounds = 0;

	each(at, 0, 100)
	{
		total += *at;
		if (*at == 60)
			break;
	}
	each(at, 0, 1000) each(inner, -5, 5) rounds++;
	return total * 100000 + rounds;
}

SEC("tc")
int packet(struct __sk_buff *skb)
{
	struct bpf_dynptr p;
	unsigned char room[4], *four;
	int *at, sum = 0;

	if (bpf_dynptr_from_skb(skb, 0, &p))
		return -1;
	each(at, 0, 20)
	{
		four = bpf_dynptr_slice(&p, *at * 4, room, sizeof(room));
		if (!four)
			break;
		sum += four[0] * 1000 + four[3];
	}
	return sum;
}
