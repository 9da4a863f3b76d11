/* A register that one path does not write. */
#include "common.h"

SEC("uprobe")
__attribute__((naked)) int uninitialised(struct pt_regs *ctx)
{
	asm volatile("call %[random];"
		     "if r0 > 7 goto +1;"
		     "r6 = 1;"
		     "r0 = r6;"
		     "exit;" ::[random] "i"(BPF_FUNC_get_prandom_u32)
		     : "memory");
}
