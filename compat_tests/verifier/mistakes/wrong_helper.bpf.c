/* A helper for packets, in a probe. */
#include "common.h"

SEC("uprobe")
int wrong_helper(struct pt_regs *ctx)
{
	return bpf_redirect(1, 0);
}
