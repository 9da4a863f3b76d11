/*
 * Dynptrs: memory whose size only the runtime knows (struct bpf_dynptr is opaque to programs). They
 * are of a map's value or another memory, of a ring buffer's record, or of a packet in a test run.
 * Kernel functions are here too; their numbers are SHIM_KFUNC_*. Source: kernel/bpf/helpers.c,
 * kernel/bpf/ringbuf.c, net/core/filter.c (6.18).
 */
#include "helpers.h"
#include "shim_packet.h"

enum { MAX_SIZE = (1 << 24) - 1 };

static u32 size_of(const struct dynptr *p)
{
	return p->size & MAX_SIZE;
}

static u32 type_of(const struct dynptr *p)
{
	return p->size >> DYNPTR_TYPE_SHIFT & 7;
}

static bool rdonly(const struct dynptr *p)
{
	return p->size >> 31;
}

static bool inside(const struct dynptr *p, u32 offset, u32 len)
{
	return len <= size_of(p) && offset <= size_of(p) - len;
}

static struct dynptr made(u64 data, u32 type, u64 size)
{
	return (struct dynptr){ data, (u32)size | type << DYNPTR_TYPE_SHIFT, 0 };
}

/* Where the bytes are; of a packet they are where it begins now. 0: no longer there. */
static u8 *bytes(const struct dynptr *p, u32 offset, u32 len)
{
	u64 at = (u64)p->offset + offset;
	const struct shim_packet *packet = (const struct shim_packet *)p->data;

	if (type_of(p) != DYNPTR_SKB && type_of(p) != DYNPTR_XDP)
		return (u8 *)p->data + at;
	if (at > packet->data_end - packet->data || len > packet->data_end - packet->data - at)
		return 0;
	return (u8 *)packet->data + at;
}

static long get(void *dst, u32 len, const struct dynptr *p, u32 offset)
{
	u8 *from;

	if (!p->data)
		return -EINVAL;
	if (!inside(p, offset, len))
		return -E2BIG;
	from = bytes(p, offset, len);
	if (!from)
		return -EFAULT;
	memmove(dst, from, len);
	return 0;
}

static long put(const struct dynptr *p, u32 offset, const void *src, u32 len, u64 flags)
{
	u32 type = type_of(p);
	u8 *to;

	if (!p->data || rdonly(p))
		return -EINVAL;
	if (!inside(p, offset, len))
		return -E2BIG;
	if (type == DYNPTR_SKB)
		return (long)helper_skb_store_bytes(p->data, p->offset + offset, (u64)src, len, flags,
						    0);
	if (flags)
		return -EINVAL;
	to = bytes(p, offset, len);
	if (!to)
		return -EFAULT;
	memmove(to, src, len);
	return 0;
}

static u8 *slice(const struct dynptr *p, u32 offset, u32 len)
{
	return p->data && inside(p, offset, len) ? bytes(p, offset, len) : 0;
}

static u8 *writable(const struct dynptr *p, u32 offset, u32 len)
{
	return rdonly(p) ? 0 : slice(p, offset, len);
}

HELPER(dynptr_from_mem)
{
	struct dynptr *p = (struct dynptr *)r4;
	long ret = (u32)r2 > MAX_SIZE ? -E2BIG : r3 ? -EINVAL : 0;

	UNUSED(r5, (u64)run);
	*p = ret ? (struct dynptr){ 0 } : made(r1, DYNPTR_LOCAL, (u32)r2);
	return (u64)ret;
}

HELPER(ringbuf_reserve_dynptr)
{
	struct dynptr *p = (struct dynptr *)r4;
	void *sample = 0;
	long ret = r3 ? -EINVAL : (u32)r2 > MAX_SIZE ? -E2BIG : 0;

	UNUSED(r5);
	if (!ret)
		sample = ringbuf_reserve((const struct shim_map_desc *)r1, (u32)r2, run);
	*p = sample ? made((u64)sample, DYNPTR_RINGBUF, (u32)r2) : (struct dynptr){ 0 };
	return (u64)(sample ? 0 : ret ? ret : -EINVAL);
}

static void give(u64 at, u64 flags, u32 discard, struct shim_run *run)
{
	struct dynptr *p = (struct dynptr *)at;

	if (p->data)
		ringbuf_commit((void *)p->data, flags, discard, run);
	*p = (struct dynptr){ 0 };
}

HELPER(ringbuf_submit_dynptr)
{
	UNUSED(r3, r4, r5);
	give(r1, r2, 0, run);
	return 0;
}

HELPER(ringbuf_discard_dynptr)
{
	UNUSED(r3, r4, r5);
	give(r1, r2, 1, run);
	return 0;
}

HELPER(dynptr_read)
{
	UNUSED((u64)run);
	if (r5)
		return (u64)-EINVAL;
	return (u64)get((void *)r1, (u32)r2, (const struct dynptr *)r3, (u32)r4);
}

HELPER(dynptr_write)
{
	UNUSED((u64)run);
	return (u64)put((const struct dynptr *)r1, (u32)r2, (const void *)r3, (u32)r4, r5);
}

HELPER(dynptr_data)
{
	const struct dynptr *p = (const struct dynptr *)r1;

	UNUSED(r4, r5, (u64)run);
	if (type_of(p) == DYNPTR_SKB || type_of(p) == DYNPTR_XDP)
		return 0;
	return (u64)writable(p, (u32)r2, (u32)r3);
}

/* kernel functions: an int that one returns has no upper half */

static u64 of_packet(u64 ctx, u64 flags, u64 at, u32 type)
{
	const struct shim_packet *packet = (const struct shim_packet *)ctx;
	struct dynptr *p = (struct dynptr *)at;

	*p = flags ? (struct dynptr){ 0 } : made(ctx, type, packet->data_end - packet->data);
	return (u32)(flags ? -EINVAL : 0);
}

HELPER(dynptr_from_skb)
{
	UNUSED(r4, r5, (u64)run);
	return of_packet(r1, r2, r3, DYNPTR_SKB);
}

HELPER(dynptr_from_skb_rdonly)
{
	u64 ret = of_packet(r1, r2, r3, DYNPTR_SKB);

	UNUSED(r4, r5, (u64)run);
	if (!ret)
		((struct dynptr *)r3)->size |= 1u << 31;
	return ret;
}

HELPER(dynptr_from_xdp)
{
	UNUSED(r4, r5, (u64)run);
	return of_packet(r1, r2, r3, DYNPTR_XDP);
}

/* The buffer (r3) is for bytes that do not lie in a row; here all do. */
HELPER(dynptr_slice)
{
	UNUSED(r3, r5, (u64)run);
	return (u64)slice((const struct dynptr *)r1, (u32)r2, (u32)r4);
}

HELPER(dynptr_slice_rdwr)
{
	UNUSED(r3, r5, (u64)run);
	return (u64)writable((const struct dynptr *)r1, (u32)r2, (u32)r4);
}

HELPER(dynptr_adjust)
{
	struct dynptr *p = (struct dynptr *)r1;
	u32 start = (u32)r2, end = (u32)r3, size = size_of(p);

	UNUSED(r4, r5, (u64)run);
	if (!p->data || start > end)
		return (u32)-EINVAL;
	if (start > size || end > size)
		return (u32)-ERANGE;
	p->offset += start;
	p->size = (p->size & ~(u32)MAX_SIZE) | (end - start);
	return 0;
}

HELPER(dynptr_is_null)
{
	UNUSED(r2, r3, r4, r5, (u64)run);
	return !((const struct dynptr *)r1)->data;
}

HELPER(dynptr_is_rdonly)
{
	const struct dynptr *p = (const struct dynptr *)r1;

	UNUSED(r2, r3, r4, r5, (u64)run);
	return p->data && rdonly(p);
}

HELPER(dynptr_size)
{
	const struct dynptr *p = (const struct dynptr *)r1;

	UNUSED(r2, r3, r4, r5, (u64)run);
	return p->data ? size_of(p) : (u32)-EINVAL;
}

HELPER(dynptr_clone)
{
	const struct dynptr *p = (const struct dynptr *)r1;
	struct dynptr *clone = (struct dynptr *)r2;

	UNUSED(r3, r4, r5, (u64)run);
	if (!p->data) {
		*clone = (struct dynptr){ 0 };
		return (u32)-EINVAL;
	}
	*clone = *p;
	return 0;
}

HELPER(dynptr_copy)
{
	const struct dynptr *dst = (const struct dynptr *)r1, *src = (const struct dynptr *)r3;
	u32 to = (u32)r2, from = (u32)r4, size = (u32)r5;
	u8 *in = writable(dst, to, size), *out = slice(src, from, size);

	UNUSED((u64)run);
	if (in && out) {
		memmove(in, out, size);
		return 0;
	}
	if (out)
		return (u32)put(dst, to, out, size, 0);
	if (in)
		return (u32)get(in, size, src, from);
	if (!inside(dst, to, size) || !inside(src, from, size))
		return (u32)-E2BIG;
	return (u32)(size ? -EINVAL : 0);
}

HELPER(dynptr_memset)
{
	const struct dynptr *p = (const struct dynptr *)r1;
	u32 offset = (u32)r2, size = (u32)r3;
	u8 *to = writable(p, offset, size);

	UNUSED(r5, (u64)run);
	if (to) {
		memset(to, (u8)r4, size);
		return 0;
	}
	if (rdonly(p))
		return (u32)-EINVAL;
	if (!inside(p, offset, size))
		return (u32)-E2BIG;
	return (u32)(size ? -EINVAL : 0);
}
