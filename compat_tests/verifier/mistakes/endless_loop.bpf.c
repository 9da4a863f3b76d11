/* A loop whose condition never changes. */
#include "common.h"

SEC("uprobe")
int endless_loop(struct pt_regs *ctx)
{
	__u32 key = 0;

	while (!bpf_map_lookup_elem(&counts, &key))
		;
	return 0;
}
