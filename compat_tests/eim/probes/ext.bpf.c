/* Programs at USDT probes, with the macros of libbpf as they are. */
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include <bpf/usdt.bpf.h>

struct peer {
	int fd;
	unsigned short port;
};
struct request {
	int number;
	struct peer *peer;
	long status;
};

/* requests, their numbers, codes and constants, their peers' ports, cookies */
long seen[6];

SEC("usdt")
int BPF_USDT(on_handled, struct request *r, short code, int constant)
{
	struct peer *peer = r->peer;

	seen[0]++;
	seen[1] += r->number;
	seen[2] += code;
	seen[3] += constant;
	if (peer)
		seen[4] += peer->port;
	seen[5] += bpf_usdt_cookie(ctx);
	return 0;
}

/* what is read by address too */
SEC("usdt")
int BPF_USDT(on_read, struct request *r)
{
	int number = 0;

	if (bpf_probe_read_user(&number, sizeof(number), &r->number))
		return 0;
	seen[0]++;
	seen[1] += number;
	return 0;
}

/* an argument that is not granted */
SEC("usdt")
int BPF_USDT(on_code, struct request *r, short code)
{
	seen[2] += code;
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
