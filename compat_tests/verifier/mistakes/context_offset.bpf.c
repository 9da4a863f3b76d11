/* Two fields read as one. */
#include "common.h"

SEC("xdp")
__attribute__((naked)) int context_offset(struct xdp_md *ctx)
{
	asm volatile("r0 = *(u64 *)(r1 + 0);"
		     "r0 = 2;"
		     "exit;" ::
			     : "memory");
}
