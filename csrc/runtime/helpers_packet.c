/*
 * Helpers on a packet in a test run; r1 is the address of its struct shim_packet. A packet is
 * linear and belongs to one run, so nothing has to be copied before it is written, but what a
 * helper would refuse in the kernel is refused. Source of checks: net/core/filter.c (6.18).
 */
#include "helpers.h"
#include "packet.h"

enum { MAX_OFF = 0xffff, XDP_FRAME = 40 /* sizeof(struct xdp_frame) */ };
enum { META_MAX = 252 };
enum { XDP_REDIRECT_ = 4 };
/* BPF_LD_ABS and BPF_LD_IND: offsets from headers (linux/filter.h) */
enum { SKF_NET = -0x100000, SKF_LL = -0x200000 };

HELPER(skb_load_bytes)
{
	struct shim_packet *p = packet(r1);
	u32 off = (u32)r2, len = (u32)r4;

	UNUSED(r5, (u64)run);
	if (off <= 0x7fffffff && has(p, off, len)) {
		memcpy((void *)r3, (void *)(p->data + off), len);
		return 0;
	}
	memset((void *)r3, 0, len);
	return (u64)-EFAULT;
}

HELPER(skb_load_bytes_relative)
{
	struct shim_packet *p = packet(r1);
	u32 off = (u32)r2, len = (u32)r4, from = (u32)r5;
	u64 start = from == 0 ? p->mac : p->network;

	UNUSED((u64)run);
	if (off <= MAX_OFF && from <= 1 && start + off + len <= p->data_end) {
		memcpy((void *)r3, (void *)(start + off), len);
		return 0;
	}
	memset((void *)r3, 0, len);
	return (u64)-EFAULT;
}

HELPER(skb_store_bytes)
{
	struct shim_packet *p = packet(r1);
	u32 off = (u32)r2, len = (u32)r4;

	UNUSED((u64)run);
	if (r5 & ~(u64)(BPF_F_RECOMPUTE_CSUM | BPF_F_INVALIDATE_HASH))
		return (u64)-EINVAL;
	if (off > 0x7fffffff || !has(p, off, len))
		return (u64)-EFAULT;
	memcpy((void *)(p->data + off), (const void *)r3, len);
	if (r5 & BPF_F_INVALIDATE_HASH)
		*field(p, SKB_HASH) = 0;
	return 0;
}

/* Internet checksums: one's complement sums of 32 bits, RFC 1071. */

static u32 csum_add(u32 a, u32 b)
{
	a += b;
	return a + (a < b);
}

static u16 csum_fold(u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (u16)~sum;
}

static u32 csum_partial(const u8 *at, u32 size, u32 sum)
{
	u32 word;

	for (; size >= 4; size -= 4, at += 4)
		sum = csum_add(sum, *(const u32 *)(const void *)at);
	word = 0;
	memcpy(&word, at, size);
	return csum_add(sum, word);
}

static void csum_by_diff(u16 *sum, u32 diff)
{
	*sum = csum_fold(csum_add(diff, ~(u32)*sum));
}

static void csum_replace4(u16 *sum, u32 from, u32 to)
{
	*sum = csum_fold(csum_add(csum_add(~(u32)*sum, ~from), to));
}

static u16 csum16_add(u16 a, u16 b)
{
	u16 sum = (u16)(a + b);

	return (u16)(sum + (sum < b));
}

static void csum_replace2(u16 *sum, u16 from, u16 to)
{
	*sum = (u16)~csum16_add(csum16_add((u16) ~*sum, (u16)~from), to);
}

/* The checksum at off of a packet that may be written up to it; NULL: -EFAULT. */
static u16 *csum_at(const struct shim_packet *p, u32 off)
{
	if (off > MAX_OFF || off & 1 || !has(p, off, 2))
		return 0;
	return (u16 *)(p->data + off);
}

HELPER(l3_csum_replace)
{
	u16 *sum = csum_at(packet(r1), (u32)r2);

	UNUSED((u64)run);
	if (r5 & ~(u64)BPF_F_HDR_FIELD_MASK)
		return (u64)-EINVAL;
	if (!sum)
		return (u64)-EFAULT;
	switch (r5) {
	case 0:
		if (r3)
			return (u64)-EINVAL;
		csum_by_diff(sum, (u32)r4);
		return 0;
	case 2: csum_replace2(sum, (u16)r3, (u16)r4); return 0;
	case 4: csum_replace4(sum, (u32)r3, (u32)r4); return 0;
	default: return (u64)-EINVAL;
	}
}

enum { CSUM_IPV6 = 1 << 7 }; /* BPF_F_IPV6 */

HELPER(l4_csum_replace)
{
	u16 *sum = csum_at(packet(r1), (u32)r2);
	bool zero_is_none = r5 & BPF_F_MARK_MANGLED_0;

	UNUSED((u64)run);
	if (r5 & ~(u64)(BPF_F_MARK_MANGLED_0 | BPF_F_MARK_ENFORCE | BPF_F_PSEUDO_HDR |
			BPF_F_HDR_FIELD_MASK | CSUM_IPV6))
		return (u64)-EINVAL;
	if (!sum)
		return (u64)-EFAULT;
	if (zero_is_none && !(r5 & BPF_F_MARK_ENFORCE) && !*sum)
		return 0;
	switch (r5 & BPF_F_HDR_FIELD_MASK) {
	case 0:
		if (r3)
			return (u64)-EINVAL;
		csum_by_diff(sum, (u32)r4);
		break;
	case 2: csum_replace4(sum, (u16)r3, (u16)r4); break;
	case 4: csum_replace4(sum, (u32)r3, (u32)r4); break;
	default: return (u64)-EINVAL;
	}
	if (zero_is_none && !*sum)
		*sum = 0xffff;
	return 0;
}

HELPER(csum_diff)
{
	u32 from_size = (u32)r2, to_size = (u32)r4, sum = (u32)r5;

	UNUSED((u64)run);
	if (to_size)
		sum = csum_partial((const u8 *)r3, to_size, sum);
	if (from_size && to_size)
		sum = csum_add(sum, ~csum_partial((const u8 *)r1, from_size, 0));
	else if (from_size)
		sum = ~csum_partial((const u8 *)r1, from_size, ~sum);
	sum += sum >> 16 | sum << 16;
	return sum >> 16;
}

/* No packet comes with a checksum of its own (CHECKSUM_COMPLETE). */
HELPER(csum_update)
{
	UNUSED(r1, r2, r3, r4, r5, (u64)run);
	return (u64)-E_NOTSUPP;
}

HELPER(skb_pull_data)
{
	UNUSED(r3, r4, r5, (u64)run);
	return has(packet(r1), 0, (u32)r2) ? 0 : (u64)-ENOMEM;
}

/* As an skb that is moved to a size: what a segmented packet knew is void. */
static void gso_reset(struct shim_packet *p)
{
	if (*field(p, SKB_GSO_SIZE))
		*field(p, SKB_GSO_SIZE) = *field(p, SKB_GSO_SEGS) = 0;
}

HELPER(skb_change_tail)
{
	struct shim_packet *p = packet(r1);
	u32 len = (u32)r2;
	u64 old = length(p), least = p->network > p->data ? p->network - p->data : 0;

	UNUSED(r4, r5, (u64)run);
	if (p->transport != NO_TRANSPORT && p->transport > p->headroom)
		least = p->transport - p->headroom;
	if (r3 || len > SKB_MAX || len < least)
		return (u64)-EINVAL;
	if (p->encapsulated)
		return (u64)-E_NOTSUPP;
	if (p->data + len > p->limit)
		return (u64)-ENOMEM;
	if (len > old)
		memset((void *)p->data_end, 0, len - old);
	p->data_end = p->data + len;
	gso_reset(p);
	resized(p);
	return 0;
}

HELPER(skb_change_head)
{
	struct shim_packet *p = packet(r1);
	u32 room = (u32)r2;

	UNUSED(r4, r5, (u64)run);
	if (r3 || (s32)room < 0 || (!*field(p, SKB_GSO_SIZE) && length(p) + room > SKB_MAX))
		return (u64)-EINVAL;
	if (p->data - p->head < room)
		return (u64)-ENOMEM;
	make_room(p, room);
	p->headroom = (u16)(p->headroom - room);
	p->data -= room;
	memset((void *)p->data, 0, room);
	p->mac = p->data;
	p->mac_len = (u16)(p->network - p->mac);
	resized(p);
	return 0;
}

HELPER(skb_change_type)
{
	struct shim_packet *p = packet(r1);

	UNUSED(r3, r4, r5, (u64)run);
	if (*field(p, SKB_PKT_TYPE) > 3 || (u32)r2 > 3) /* PACKET_OTHERHOST */
		return (u64)-EINVAL;
	*field(p, SKB_PKT_TYPE) = (u32)r2;
	return 0;
}

/* The kernel's is keyed at random: any number but 0 that is the same for the same packet. */
HELPER(get_hash_recalc)
{
	struct shim_packet *p = packet(r1);
	u32 hash = 2166136261u;

	UNUSED(r2, r3, r4, r5, (u64)run);
	if (*field(p, SKB_HASH))
		return *field(p, SKB_HASH);
	for (u64 at = p->network; at < p->data_end && at < p->network + 40; at++)
		hash = (hash ^ *(const u8 *)at) * 16777619u;
	*field(p, SKB_HASH) = hash ? hash : 1;
	return *field(p, SKB_HASH);
}

HELPER(set_hash_invalid)
{
	UNUSED(r2, r3, r4, r5, (u64)run);
	*field(packet(r1), SKB_HASH) = 0;
	return 0;
}

HELPER(set_hash)
{
	UNUSED(r3, r4, r5, (u64)run);
	*field(packet(r1), SKB_HASH) = (u32)r2;
	return 0;
}

/* Nothing is sent: a test run tells what the program said, no more. */
HELPER(redirect)
{
	const struct shim_packet *p = packet(run->packet);

	UNUSED(r1, r3, r4, r5);
	if (p && p->kind == SHIM_PACKET_XDP)
		return r2 ? 0 : XDP_REDIRECT_;
	return r2 & ~(u64)BPF_F_INGRESS ? TC_SHOT : TC_REDIRECT;
}

HELPER(xdp_adjust_head)
{
	struct shim_packet *p = packet(r1);
	u64 meta = p->data - p->data_meta, to = p->data + (u64)(s64)(s32)r2;

	UNUSED(r3, r4, r5, (u64)run);
	if (to < p->head + XDP_FRAME + meta || to > p->data_end - ETH_LEN)
		return (u64)-EINVAL;
	if (meta)
		memmove((void *)(to - meta), (void *)p->data_meta, meta);
	p->data_meta = to - meta;
	p->data = to;
	return 0;
}

HELPER(xdp_adjust_meta)
{
	struct shim_packet *p = packet(r1);
	u64 meta = p->data_meta + (u64)(s64)(s32)r2, len = p->data - meta;

	UNUSED(r3, r4, r5, (u64)run);
	if (meta < p->head + XDP_FRAME || meta > p->data)
		return (u64)-EINVAL;
	if (len & 3 || len > META_MAX)
		return (u64)-EACCES;
	p->data_meta = meta;
	return 0;
}

/* Of a packet with fragments, which are full but for the last one. */
static long adjust_frags(struct shim_packet *p, s32 by)
{
	u64 all = length(p) + p->frags_size;
	u32 last = p->frags_size % SHIM_PACKET_FRAG;

	if (by >= 0) {
		if ((u32)by > (last ? SHIM_PACKET_FRAG - last : 0))
			return -EINVAL;
		memset((void *)(p->frags + p->frags_size), 0, (u32)by);
		p->frags_size += (u32)by;
		return 0;
	}
	if ((u64) - (s64)by > all - ETH_LEN)
		return -EINVAL;
	if ((u32)-by <= p->frags_size) {
		p->frags_size -= (u32)-by;
		return 0;
	}
	p->data_end -= (u32)-by - p->frags_size;
	p->frags_size = 0;
	return 0;
}

HELPER(xdp_adjust_tail)
{
	struct shim_packet *p = packet(r1);
	s32 by = (s32)r2;
	u64 end = p->data_end + (u64)(s64)by;

	UNUSED(r3, r4, r5, (u64)run);
	if (p->frags_size)
		return (u64)adjust_frags(p, by);
	if (end > p->limit || end < p->data + ETH_LEN)
		return (u64)-EINVAL;
	if (by > 0)
		memset((void *)p->data_end, 0, (u32)by);
	p->data_end = end;
	return 0;
}

HELPER(xdp_get_buff_len)
{
	const struct shim_packet *p = packet(r1);

	UNUSED(r2, r3, r4, r5, (u64)run);
	return length(p) + p->frags_size;
}

/* Between a buffer and a packet with its fragments. */
static long xdp_copy(struct shim_packet *p, u32 off, u8 *buf, u32 len, bool store)
{
	if (off > MAX_OFF || len > MAX_OFF)
		return -EFAULT;
	if ((u64)off + len > length(p) + p->frags_size)
		return -EINVAL;
	while (len) {
		bool linear = off < length(p);
		u8 *at = linear ? (u8 *)p->data + off : (u8 *)p->frags + (off - length(p));
		u32 some = linear && length(p) - off < len ? (u32)(length(p) - off) : len;

		memcpy(store ? at : buf, store ? buf : at, some);
		buf += some;
		off += some;
		len -= some;
	}
	return 0;
}

HELPER(xdp_load_bytes)
{
	UNUSED(r5, (u64)run);
	return (u64)xdp_copy(packet(r1), (u32)r2, (u8 *)r3, (u32)r4, false);
}

HELPER(xdp_store_bytes)
{
	UNUSED(r5, (u64)run);
	return (u64)xdp_copy(packet(r1), (u32)r2, (u8 *)r3, (u32)r4, true);
}

/* BPF_LD_ABS, BPF_LD_IND: r3 bytes at r2 in network order, or a negative errno. */
HELPER(packet_load)
{
	const struct shim_packet *p = packet(r1);
	s32 off = (s32)r2;
	u32 size = (u32)r3;
	u64 at = p->data + (u64)(s64)off, value = 0;

	UNUSED(r4, r5, (u64)run);
	if (off < 0 && off >= SKF_NET)
		at = p->network + (u64)(s64)(off - SKF_NET);
	else if (off < 0 && off >= SKF_LL)
		at = p->mac + (u64)(s64)(off - SKF_LL);
	else if (off < 0)
		return (u64)-EFAULT;
	if (at < p->head || at > p->data_end || size > p->data_end - at)
		return (u64)-EFAULT;
	for (u32 i = 0; i < size; i++)
		value = value << 8 | ((const u8 *)at)[i];
	return value;
}
