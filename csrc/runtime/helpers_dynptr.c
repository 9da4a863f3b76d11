/* Dynptrs that a callback is given: memory whose size only the runtime knows (struct bpf_dynptr is
 * opaque). Source: kernel/bpf/helpers.c. */
#include "helpers.h"

static bool inside(const struct dynptr *p, u32 offset, u32 len)
{
	return len <= p->size && offset <= p->size - len;
}

HELPER(dynptr_read)
{
	const struct dynptr *p = (const struct dynptr *)r3;

	UNUSED((u64)run);
	if (!p->data || r5)
		return (u64)-EINVAL;
	if (!inside(p, (u32)r4, (u32)r2))
		return (u64)-E2BIG;
	memmove((void *)r1, (const u8 *)p->data + p->offset + (u32)r4, (u32)r2);
	return 0;
}

HELPER(dynptr_write)
{
	const struct dynptr *p = (const struct dynptr *)r1;

	UNUSED((u64)run);
	if (!p->data || r5)
		return (u64)-EINVAL;
	if (!inside(p, (u32)r2, (u32)r4))
		return (u64)-E2BIG;
	memmove((u8 *)p->data + p->offset + (u32)r2, (const void *)r3, (u32)r4);
	return 0;
}

HELPER(dynptr_data)
{
	const struct dynptr *p = (const struct dynptr *)r1;

	UNUSED(r4, r5, (u64)run);
	return p->data && inside(p, (u32)r2, (u32)r3) ? p->data + p->offset + (u32)r2 : 0;
}
