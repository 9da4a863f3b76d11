/* Two functions with 300 bytes each. */
#include "common.h"

static __attribute__((noinline)) int inner(struct xdp_md *ctx)
{
	volatile char text[300] = {};

	return text[bpf_get_prandom_u32() & 255];
}

SEC("xdp")
int large_stack(struct xdp_md *ctx)
{
	volatile char text[300] = {};

	return inner(ctx) + text[bpf_get_prandom_u32() & 255];
}
