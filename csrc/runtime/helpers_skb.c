/*
 * Helpers that change the headers of an skb in a test run. Source of checks: net/core/filter.c,
 * net/core/skbuff.c, include/linux/if_vlan.h, include/net/inet_ecn.h (6.18).
 */
#include "helpers.h"
#include "packet.h"

enum { VLAN_LEN = 4, ADDRESSES = 12, IPV4_LEN = 20, IPV6_LEN = 40, E_ALREADY = 114 };
enum { ENCAP_MAX = 256 /* LWT_BPF_MAX_HEADROOM */ };
enum { CLOCK_TAI_ = 2 /* BPF_SKB_CLOCK_TAI */ };
/* in network order, as a number of this machine */
enum { IP = 0x0008, IPV6 = 0xdd86, VLAN = 0x0081, VLAN_AD = 0xa888 };

static bool is_vlan(u32 protocol)
{
	return protocol == VLAN || protocol == VLAN_AD;
}

static u16 *at16(u64 at)
{
	return (u16 *)at;
}

/* len zeros behind the first off bytes */
static long push(struct shim_packet *p, u32 off, u32 len)
{
	if (p->data - p->head < len || off > p->limit - p->data) /* also behind its end */
		return -ENOMEM;
	make_room(p, len);
	p->headroom = (u16)(p->headroom - len);
	p->data -= len;
	p->mac -= len;
	p->network -= len;
	memmove((void *)p->data, (void *)(p->data + len), off);
	memset((void *)(p->data + off), 0, len);
	resized(p);
	return 0;
}

/* ... no more there */
static long pop(struct shim_packet *p, u32 off, u32 len)
{
	if (!has(p, off, len))
		return -ENOMEM;
	memmove((void *)(p->data + len), (void *)p->data, off);
	p->headroom = (u16)(p->headroom + len);
	p->data += len;
	p->mac += len;
	p->network += len;
	resized(p);
	return 0;
}

static u16 network(const struct shim_packet *p)
{
	return (u16)(p->headroom + (p->network - p->data));
}

/* bpf_skb_net_hdr_push(), or bpf_skb_net_hdr_pop() of a negative number */
static long move(struct shim_packet *p, u32 off, s32 by)
{
	bool same;
	long err;

	if (by > 0)
		make_room(p, (u32)by);
	same = p->transport == network(p);
	err = by < 0 ? pop(p, off, -(u32)by) : push(p, off, (u32)by);
	if (same)
		p->transport = network(p);
	return err;
}

static void put_tag(struct shim_packet *p, u32 present, u32 protocol, u32 tci)
{
	*field(p, SKB_VLAN_PRESENT) = present;
	*field(p, SKB_VLAN_PROTO) = protocol;
	*field(p, SKB_VLAN_TCI) = tci;
}

HELPER(skb_vlan_push)
{
	struct shim_packet *p = packet(r1);
	u32 protocol = is_vlan((u16)r2) ? (u16)r2 : VLAN;

	UNUSED(r4, r5, (u64)run);
	if (*field(p, SKB_VLAN_PRESENT)) { /* that tag goes into the packet */
		u32 outer = *field(p, SKB_VLAN_PROTO), tci = *field(p, SKB_VLAN_TCI);
		long err = push(p, ADDRESSES, VLAN_LEN);

		if (err)
			return (u64)err;
		at16(p->data)[6] = (u16)outer;
		at16(p->data)[7] = __builtin_bswap16((u16)tci);
		*field(p, SKB_PROTOCOL) = outer;
	}
	put_tag(p, 1, protocol, (u16)r3);
	return 0;
}

/* __skb_vlan_pop(): the tag in the packet, or a negative errno. */
static long take_tag(struct shim_packet *p)
{
	long tci, err;
	u32 inner;

	if (!has(p, 0, ETH_LEN + VLAN_LEN))
		return -ENOMEM;
	tci = __builtin_bswap16(at16(p->data)[7]);
	inner = at16(p->data)[8];
	if (__builtin_bswap16((u16)inner) < 0x600) /* a length: ETH_P_802_3 or ETH_P_802_2 */
		inner = at16(p->data)[9] == 0xffff ? 0x100 : 0x400;
	err = pop(p, ADDRESSES, VLAN_LEN);
	if (err)
		return err;
	p->network -= VLAN_LEN;
	if (p->network < p->data + ETH_LEN)
		p->network = p->data + ETH_LEN;
	p->mac_len = (u16)(p->network - p->mac);
	*field(p, SKB_PROTOCOL) = inner;
	return tci;
}

HELPER(skb_vlan_pop)
{
	struct shim_packet *p = packet(r1);
	u32 protocol;
	long tci;

	UNUSED(r2, r3, r4, r5, (u64)run);
	if (*field(p, SKB_VLAN_PRESENT)) {
		put_tag(p, 0, 0, 0);
	} else {
		if (!is_vlan(*field(p, SKB_PROTOCOL)))
			return 0;
		tci = take_tag(p);
		if (tci < 0)
			return (u64)tci;
	}
	protocol = *field(p, SKB_PROTOCOL);
	if (!is_vlan(protocol))
		return 0;
	tci = take_tag(p); /* the next one is no more in the packet either */
	if (tci < 0)
		return (u64)tci;
	put_tag(p, 1, protocol, (u32)tci);
	return 0;
}

HELPER(skb_change_proto)
{
	struct shim_packet *p = packet(r1);
	u32 from = *field(p, SKB_PROTOCOL), to = (u16)r2, off = (u32)(p->network - p->mac);
	long err = -E_NOTSUPP;

	UNUSED(r4, r5, (u64)run);
	if (r3)
		return (u64)-EINVAL;
	if (from == IP && to == IPV6)
		err = move(p, off, IPV6_LEN - IPV4_LEN);
	else if (from == IPV6 && to == IP)
		err = move(p, off, IPV4_LEN - IPV6_LEN);
	if (err)
		return (u64)err;
	*field(p, SKB_PROTOCOL) = to;
	*field(p, SKB_HASH) = 0;
	return 0;
}

enum { ENCAP_L3 = BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 };
enum { ENCAP_L4 = BPF_F_ADJ_ROOM_ENCAP_L4_GRE | BPF_F_ADJ_ROOM_ENCAP_L4_UDP };
/* BPF_F_ADJ_ROOM_DECAP_L3_*, newer than the headers of Linux 6.1 */
enum { DECAP_IPV4 = 1 << 7, DECAP_IPV6 = 1 << 8 };
enum { DECAP_L3 = DECAP_IPV4 | DECAP_IPV6 };
enum { SHRINK = BPF_F_ADJ_ROOM_FIXED_GSO | DECAP_L3 | BPF_F_ADJ_ROOM_NO_CSUM_RESET };
enum { ADJ_ROOM = SHRINK | ENCAP_L3 | ENCAP_L4 | BPF_F_ADJ_ROOM_ENCAP_L2_ETH, INNER_MAC = 56 };

/* The protocol is that of the header that flags say is the outer one now. */
static void match(struct shim_packet *p, bool v4, bool v6)
{
	if (*field(p, SKB_PROTOCOL) == IP && v6)
		*field(p, SKB_PROTOCOL) = IPV6;
	else if (*field(p, SKB_PROTOCOL) == IPV6 && v4)
		*field(p, SKB_PROTOCOL) = IP;
}

/* bpf_skb_net_grow() */
static long widen(struct shim_packet *p, u32 off, u32 by, u64 flags)
{
	u64 inner_mac = flags >> INNER_MAC, mac_len = p->network - p->mac;
	bool encap = flags & ENCAP_L3;
	long err;

	if (*field(p, SKB_GSO_SIZE)) /* of no kind of segments */
		return -E_NOTSUPP;
	make_room(p, by);
	if (encap) {
		if ((flags & ENCAP_L3) == ENCAP_L3 || (flags & ENCAP_L4) == ENCAP_L4 ||
		    (flags & BPF_F_ADJ_ROOM_ENCAP_L2_ETH && inner_mac < ETH_LEN))
			return -EINVAL;
		if (p->encapsulated)
			return -E_ALREADY;
		if (inner_mac > by)
			return -EINVAL;
	}
	err = move(p, off, (s32)by);
	if (err || !encap)
		return err;
	p->encapsulated = 1;
	p->network = p->data + mac_len;
	if (flags & ENCAP_L4)
		p->transport = (u16)(network(p) +
				     (flags & BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 ? IPV6_LEN : IPV4_LEN));
	match(p, flags & BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, flags & BPF_F_ADJ_ROOM_ENCAP_L3_IPV6);
	return 0;
}

/* bpf_skb_net_shrink() */
static long narrow(struct shim_packet *p, u32 off, u32 by, u64 flags)
{
	long err;

	if (flags & ~(u64)SHRINK)
		return -EINVAL;
	if (*field(p, SKB_GSO_SIZE))
		return -E_NOTSUPP;
	err = move(p, off, -(s32)by);
	if (!err)
		match(p, flags & DECAP_IPV4, flags & DECAP_IPV6);
	return err;
}

HELPER(skb_adjust_room)
{
	struct shim_packet *p = packet(r1);
	s32 diff = (s32)r2;
	u32 by = diff < 0 ? -(u32)diff : (u32)diff, protocol = *field(p, SKB_PROTOCOL);
	u32 base = protocol == IP ? IPV4_LEN : IPV6_LEN, least = base;
	u32 off = (u32)(p->network - p->mac);
	u64 decap = r4 & DECAP_L3, size = p->data_end - p->network;
	long err;

	UNUSED(r5, (u64)run);
	if (r4 & ~((u64)ADJ_ROOM | 0xffULL << INNER_MAC))
		return (u64)-EINVAL;
	if (by > 0xfff)
		return (u64)-EFAULT;
	if ((protocol != IP && protocol != IPV6) || (u32)r3 > BPF_ADJ_ROOM_MAC)
		return (u64)-E_NOTSUPP;
	if ((u32)r3 == BPF_ADJ_ROOM_NET)
		off += base;
	if (decap) {
		if (diff >= 0 || decap == DECAP_L3)
			return (u64)-EINVAL;
		least = decap == DECAP_IPV4 ? IPV4_LEN : IPV6_LEN;
	}
	if (diff < 0 ? by >= size || size - by < least
		     : length(p) + by > SKB_MAX && !*field(p, SKB_GSO_SIZE))
		return (u64)-E_NOTSUPP;
	err = diff < 0 ? narrow(p, off, by, r4) : widen(p, off, by, r4);
	if (!err && !(r4 & BPF_F_ADJ_ROOM_NO_CSUM_RESET))
		p->csum = 0;
	return (u64)err;
}

HELPER(csum_level)
{
	struct shim_packet *p = packet(r1);

	UNUSED(r3, r4, r5, (u64)run);
	switch (r2) {
	case BPF_CSUM_LEVEL_QUERY: return p->csum ? p->csum - 1 : (u64)-EACCES;
	case BPF_CSUM_LEVEL_INC: p->csum += p->csum < 4; return 0; /* SKB_MAX_CSUM_LEVEL + 1 */
	case BPF_CSUM_LEVEL_DEC: p->csum -= p->csum > 0; return 0;
	case BPF_CSUM_LEVEL_RESET: p->csum = 0; return 0;
	default: return (u64)-EINVAL;
	}
}

/* vlan_get_protocol(): what tags in the packet lead to. */
static u32 inner_protocol(struct shim_packet *p)
{
	u32 protocol = *field(p, SKB_PROTOCOL), tags = 7; /* one less are followed */
	u64 off = p->mac_len ? p->mac_len - VLAN_LEN : ETH_LEN;

	for (; is_vlan(protocol); off += VLAN_LEN) {
		if (!has(p, off, VLAN_LEN) || !--tags)
			return 0;
		protocol = *at16(p->data + off + 2);
	}
	return protocol;
}

HELPER(skb_ecn_set_ce)
{
	struct shim_packet *p = packet(r1);
	u32 protocol = inner_protocol(p), size = protocol == IP ? IPV4_LEN : IPV6_LEN;
	u8 *header = (u8 *)p->network;
	u16 *sum = at16(p->network + 10);

	UNUSED(r2, r3, r4, r5, (u64)run);
	if ((protocol != IP && protocol != IPV6) || !has(p, 0, size) || p->network + size > p->data_end)
		return 0;
	if (protocol == IPV6) {
		if (!(header[1] & 0x30))
			return 0;
		header[1] |= 0x30;
		return 1;
	}
	if ((header[1] & 3) == 0 || (header[1] & 3) == 3)
		return header[1] & 1;
	/* IP_ECN_set_ce(): what the bits grow by, off the sum */
	size = *sum + 0xfbffu + (((header[1] + 1u) & 3) << 8);
	*sum = (u16)(size + (size >> 16));
	header[1] |= 3;
	return 1;
}

/* ip_fast_csum(); of less than a header it is the first word. */
static u16 header_sum(const u16 *at, u32 words)
{
	u32 sum = 0;

	if (words < 5)
		return *at;
	for (u32 n = 0; n < words * 2; n++)
		sum += at[n];
	sum = (sum & 0xffff) + (sum >> 16);
	return (u16) ~(sum + (sum >> 16));
}

/* bpf_lwt_push_ip_encap(): an IP header, and what may follow it, before the packet's. */
HELPER(lwt_push_encap)
{
	struct shim_packet *p = packet(r1);
	u32 len = (u32)r4, version;
	const u8 *header = (const u8 *)r3;
	u8 *to;

	UNUSED(r5, (u64)run);
	if ((u32)r2 != BPF_LWT_ENCAP_IP || len < IPV4_LEN || len > ENCAP_MAX)
		return (u64)-EINVAL;
	version = header[0] >> 4;
	if (version == 4 ? len < (header[0] & 15u) * 4 : version != 6 || len < IPV6_LEN)
		return (u64)-EINVAL;
	if (p->data - p->head < len)
		return (u64)-ENOMEM;
	make_room(p, len);
	p->headroom = (u16)(p->headroom - len);
	to = (u8 *)(p->network = p->data -= len);
	resized(p);
	memcpy(to, header, len);
	p->encapsulated = 1;
	*field(p, SKB_HASH) = 0;
	*field(p, SKB_PROTOCOL) = version == 4 ? IP : IPV6;
	if (version == 4 && !*at16((u64)to + 10))
		*at16((u64)to + 10) = header_sum(at16((u64)to), header[0] & 15);
	return *field(p, SKB_GSO_SIZE) ? (u64)-E_NOTSUPP : 0;
}

HELPER(skb_set_tstamp)
{
	struct shim_packet *p = packet(r1);
	u32 protocol = *field(p, SKB_PROTOCOL), kind = (u32)r3;

	UNUSED(r4, r5, (u64)run);
	if (protocol != IP && protocol != IPV6)
		return (u64)-EOPNOTSUPP;
	if (kind > CLOCK_TAI_ || (kind && !r2))
		return (u64)-EINVAL;
	memcpy(p->ctx + SKB_TSTAMP, &r2, 8);
	p->ctx[SKB_TSTAMP_TYPE] = (u8)kind;
	return 0;
}
