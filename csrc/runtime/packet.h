/* What helpers on a packet share; their r1 is the address of a struct shim_packet. */
#ifndef SHIM_RUNTIME_PACKET_H
#define SHIM_RUNTIME_PACKET_H

#include "runtime.h"
#include "shim_packet.h"

enum { TC_SHOT = 2, TC_REDIRECT = 7 };
enum { NO_TRANSPORT = 0xffff };
enum { ETH_LEN = 14, E_NOTSUPP = 524, SKB_MAX = 16384 - 320 /* SKB_MAX_ALLOC */ };
/* in struct __sk_buff */
enum {
	SKB_LEN = 0,
	SKB_PKT_TYPE = 4,
	SKB_PROTOCOL = 16,
	SKB_VLAN_PRESENT = 20,
	SKB_VLAN_TCI = 24,
	SKB_VLAN_PROTO = 28,
	SKB_IFINDEX = 40,
	SKB_HASH = 68,
	SKB_TSTAMP = 152,
	SKB_GSO_SEGS = 164,
	SKB_GSO_SIZE = 176,
	SKB_TSTAMP_TYPE = 180,
	XDP_IFINDEX = 12, /* in struct xdp_md */
};

static inline struct shim_packet *packet(u64 ctx)
{
	return (struct shim_packet *)ctx;
}

static inline u32 *field(struct shim_packet *p, u32 off)
{
	return (u32 *)(p->ctx + off);
}

static inline u64 length(const struct shim_packet *p)
{
	return p->data_end - p->data;
}

/* The packet has len bytes from off on. */
static inline bool has(const struct shim_packet *p, u64 off, u64 len)
{
	return off <= length(p) && len <= length(p) - off;
}

static inline void resized(struct shim_packet *p)
{
	if (p->kind == SHIM_PACKET_SKB)
		*field(p, SKB_LEN) = (u32)length(p);
}

/* skb_cow_head(): the kernel's buffer gets more room in steps of 64. All offsets move with it, that
 * of a transport header which is not known too: then it counts as known. */
static inline void make_room(struct shim_packet *p, u32 len)
{
	u32 more = len > p->headroom ? (len - p->headroom + 63) & ~63u : 0;

	p->headroom = (u16)(p->headroom + more);
	p->transport = (u16)(p->transport + more);
}

#endif
