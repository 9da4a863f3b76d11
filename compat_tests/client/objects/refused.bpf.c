#include "core.h"

/* A good program and one that the verifier refuses. */
SEC("uprobe")
int good(void *ctx)
{
	return 0;
}

SEC("uprobe")
int wild(struct pt_regs *ctx)
{
	return *(volatile int *)ctx->rdi;
}
