#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

struct text {
	unsigned long len;
	const char *data;
};
struct peer {
	int fd;
	unsigned short port;
	struct text name;
};
struct request {
	int number;
	struct text uri;
	struct peer *peer;
	int status;
};

long longest, ports, hits, read_ports;

SEC("uprobe")
int watch_uri(struct pt_regs *ctx)
{
	struct request *r = (struct request *)PT_REGS_PARM1(ctx);
	long len = r->uri.len;
	struct peer *peer = r->peer;
	unsigned short port = 0;

	hits++;
	if (len > longest)
		longest = len;
	ports += peer->port; /* of no peer: 0 */
	bpf_probe_read_user(&port, sizeof(port), &peer->port);
	read_ports += port;
	return 0;
}

SEC("uprobe")
int mark_status(struct pt_regs *ctx)
{
	struct request *r = (struct request *)PT_REGS_PARM1(ctx);

	r->status = 403;
	return 0;
}

SEC("uprobe.multi")
int watch_many(struct pt_regs *ctx)
{
	hits++;
	return 0;
}

long gates, whole, beyond;

/* What a name is: four bytes and no NUL. */
SEC("uprobe")
int watch_name(struct pt_regs *ctx)
{
	struct request *r = (struct request *)PT_REGS_PARM1(ctx);
	const char *name = r->peer->name.data;
	char got[8] = {};

	if (bpf_probe_read_user_str(got, sizeof(got), name) == 5)
		gates += *(unsigned int *)got == 0x65746167 && !got[4];
	whole += bpf_probe_read_user(got, 4, name) == 0;
	beyond += bpf_probe_read_user(got, 5, name) == -14;
	return 0;
}

SEC("uprobe")
int stranger(struct pt_regs *ctx)
{
	return 0;
}

char _license[] SEC("license") = "GPL";
