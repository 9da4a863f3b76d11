/* A lookup's result is used without a test. */
#include "common.h"

SEC("uprobe")
int unchecked_lookup(struct pt_regs *ctx)
{
	__u32 key = 0;
	struct value *v = bpf_map_lookup_elem(&counts, &key);

	v->count += 1;
	return 0;
}
