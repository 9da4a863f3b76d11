/* Instructions behind the end. */
#include "common.h"

SEC("uprobe")
__attribute__((naked)) int dead_code(struct pt_regs *ctx)
{
	asm volatile("r0 = 0;"
		     "exit;"
		     "r0 = 1;"
		     "exit;" ::
			     : "memory");
}
