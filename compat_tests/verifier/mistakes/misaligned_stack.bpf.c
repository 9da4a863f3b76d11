/* Eight bytes at an address that is no multiple of eight. */
#include "common.h"

SEC("uprobe")
__attribute__((naked)) int misaligned_stack(struct pt_regs *ctx)
{
	asm volatile("r1 = 7;"
		     "*(u64 *)(r10 - 12) = r1;"
		     "r0 = 0;"
		     "exit;" ::
			     : "memory");
}
