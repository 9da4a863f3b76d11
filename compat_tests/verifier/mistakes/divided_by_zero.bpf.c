/* A division by what may be zero: no mistake, the quotient is 0 then. */
#include "common.h"

SEC("xdp")
int divided_by_zero(struct xdp_md *ctx)
{
	__u32 length = ctx->data_end - ctx->data;

	return 1000 / length > 10 ? XDP_PASS : XDP_DROP;
}
