#include "core.h"

struct upid {
	int nr;
} CORE;
struct pid {
	unsigned int level;
	struct upid numbers[0];
} CORE;
struct anon {
	int a;
};
struct pid___flex {
	int level;
	struct upid numbers[];
} CORE;
struct task_struct {
	char comm[16];
	struct {
		int nested;
	} nosuch_anonymous;
} CORE;
struct in6_addr {
	union {
		__u8 u6_addr8[16];
		__u32 u6_addr32[4];
	} in6_u;
} CORE;
struct sock_common {
	union {
		struct {
			__u32 skc_daddr;
			__u32 skc_rcv_saddr;
		};
	};
	struct in6_addr skc_v6_daddr;
} CORE;

u64 out[8];

SEC("kprobe")
int elements(void *ctx)
{
	struct pid *p = (void *)ctx;
	struct pid___flex *f = (void *)ctx;
	struct task_struct *t = (void *)ctx;
	struct sock_common *s = (void *)ctx;

	out[0] = BPF_CORE_READ(p, numbers[2].nr);
	out[1] = BPF_CORE_READ(f, numbers[1].nr);
	out[2] = BPF_CORE_READ(t, comm[3]);
	out[3] = BPF_CORE_READ(s, skc_rcv_saddr);
	out[4] = BPF_CORE_READ(s, skc_v6_daddr.in6_u.u6_addr32[2]);
	bpf_core_read(&out[5], 4, &t[1].comm);
	out[6] = bpf_core_field_size(s->skc_v6_daddr.in6_u.u6_addr8);
	out[7] = BPF_CORE_READ(t, nosuch_anonymous.nested);
	return 0;
}
