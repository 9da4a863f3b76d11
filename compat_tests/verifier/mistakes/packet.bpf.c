/* The packet may be shorter than what is read. */
#include "common.h"

SEC("xdp")
int packet(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *data_end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;

	if (data + 12 > data_end)
		return XDP_DROP;
	return eth->h_proto ? XDP_PASS : XDP_DROP;
}
