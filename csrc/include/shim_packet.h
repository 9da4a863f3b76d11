/*
 * The context of a program on a packet, as BPF_PROG_TEST_RUN gives it one. Programs see 'ctx' as
 * struct __sk_buff or xdp_md; loads of the fields data, data_end and data_meta, which are 32 bits
 * wide there, are compiled as loads of the 64-bit addresses behind it (jit/context.py), helpers
 * change both sides.
 *
 * The packet is one piece of memory that begins at data, inside [head, limit).
 * With XDP, what does not fit there follows in 'frags' (as in the kernel's fragments).
 */
#ifndef SHIM_PACKET_H
#define SHIM_PACKET_H

#include "shim_types.h"

enum { SHIM_PACKET_SKB = 1, SHIM_PACKET_XDP = 2 };
enum { SHIM_TUNNEL_IPV4 = 1, SHIM_TUNNEL_IPV6 = 2 };
enum { SHIM_PACKET_CTX = 192, SHIM_PACKET_FRAG = 4096 };

struct shim_packet {
	u8 ctx[192];
	u64 data, data_end, data_meta;
	u64 head, limit;
	u64 mac, network; /* skb: where these headers begin */
	u64 frags;
	u32 frags_size; /* bytes */
	u32 kind;
	/* skb */
	u32 csum; /* CHECKSUM_UNNECESSARY: its level + 1; 0: CHECKSUM_NONE */
	u16 mac_len;
	u8 encapsulated;
	u8 tunnel; /* SHIM_TUNNEL_*: it has data for a tunnel */
	u64 cookie; /* of its socket, once asked for */
	u8 sk[80]; /* struct bpf_sock of its socket, where ctx has its address */
	u8 tunnel_key[44]; /* struct bpf_tunnel_key, as it is read */
	u16 tunnel_flags; /* IP_TUNNEL_*_BIT */
	u16 tunnel_size;
	u8 tunnel_options[252];
	/* where the kernel has its bytes, from its buffer's begin on */
	u16 headroom, transport; /* of the packet; of its transport header, 0xffff: not known */
};
SHIM_ASSERT(__builtin_offsetof(struct shim_packet, data) == 192);

#endif
