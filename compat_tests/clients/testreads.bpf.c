/* Reads in test runs: of memory that is there, and of some where nothing is. Each returns how often it was wrong. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

enum { EFAULT = 14, LOOPS = 32, TEXT = 32 };

const volatile __u64 text_at, none_at, edge_at, beyond_at;

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} ring SEC(".maps");

/* What the loader and others look at while it runs. */
struct {
	__u64 look_at, tries, found, hits, refused;
} state SEC(".data.state");

SEC("tc")
int reads(struct __sk_buff *ctx)
{
	char text[64];
	__u64 word;
	int wrong = 0;

	state.tries++;
	for (int i = 0; i < LOOPS; i++) {
		wrong += bpf_probe_read_user(&word, 8, (void *)text_at) != 0 ||
			 word != 0x3736353433323130;
		wrong += bpf_probe_read_user_str(text, sizeof(text), (void *)text_at) != TEXT;
		wrong += bpf_probe_read_user(&word, 8, (void *)(none_at + 8 * i)) != -EFAULT || word;
		wrong += bpf_probe_read_user(&word, 8, (void *)8) != -EFAULT;
		wrong += bpf_probe_read_user_str(text, 8, (void *)none_at) != -EFAULT;
		/* the last eight bytes of a page, behind which nothing is */
		wrong += bpf_probe_read_user(&word, 8, (void *)edge_at) != 0 ||
			 word != 0x3736353433323130;
		wrong += bpf_probe_read_user(&word, 8, (void *)(edge_at + 1)) != -EFAULT;
		wrong += bpf_probe_read_user_str(text, 64, (void *)edge_at) != -EFAULT;
		/* behind the end of a file */
		wrong += bpf_probe_read_user(&word, 8, (void *)(beyond_at - 8)) != 0 ||
			 word != 0x3736353433323130;
		wrong += bpf_probe_read_user(&word, 8, (void *)(beyond_at - 4)) != -EFAULT;
		wrong += bpf_probe_read_user(&word, 8, (void *)(beyond_at + 8 * i)) != -EFAULT;
		/* no process has memory there */
		wrong += bpf_probe_read_user(&word, 8, (void *)(1ull << 63 | i << 12)) != -EFAULT;
		wrong += bpf_probe_read_user_str(text, 8, (void *)(1ull << 60)) != -EFAULT;
		wrong += bpf_probe_read_user(&word, 8, (void *)-4ull) != -EFAULT;
	}
	return wrong;
}

/* Until something is there. */
SEC("tc")
int waits(struct __sk_buff *ctx)
{
	char byte;

	if (state.found)
		return 0;
	state.tries++;
	state.found = bpf_probe_read_user(&byte, 1, (void *)state.look_at) == 0;
	return 0;
}

SEC("uprobe")
int hit(void *ctx)
{
	char byte;

	state.hits++;
	for (int i = 0; i < LOOPS; i++) {
		state.refused += bpf_probe_read_user(&byte, 1, (void *)none_at) == -EFAULT;
		state.refused += bpf_probe_read_user(&byte, 1, (void *)text_at) == -EFAULT;
	}
	return 0;
}

SEC("tc")
int nothing(struct __sk_buff *ctx)
{
	int sum = 0;

	state.tries++;
	for (int i = 0; i < 1000; i++)
		sum += bpf_get_smp_processor_id() > 4096;
	return sum;
}

char LICENSE[] SEC("license") = "GPL";
