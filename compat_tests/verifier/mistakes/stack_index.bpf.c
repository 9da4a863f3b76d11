/* An index from outside, into an array on the stack. */
#include "common.h"

SEC("uprobe")
int stack_index(struct pt_regs *ctx)
{
	volatile char text[16] = {};
	__u32 at = bpf_get_prandom_u32();

	if (at > 16)
		return 0;
	text[at] = 1;
	return text[3];
}
