/*
 * What an skb in a test run carries for a tunnel device: what its program has set. Source:
 * net/core/filter.c, bpf_skb_set_tunnel_key() and those after it; include/net/ip_tunnels.h (6.18).
 */
#include "helpers.h"
#include "packet.h"

enum { E_PROTO = 71, NO_KEY = 1 << 4 /* BPF_F_NO_TUNNEL_KEY, Linux 6.5 */ };
enum { GET_FLAGS = BPF_F_TUNINFO_IPV6 | 1 << 4 /* BPF_F_TUNINFO_FLAGS, Linux 6.2 */ };
enum {
	SET_FLAGS = BPF_F_TUNINFO_IPV6 | BPF_F_ZERO_CSUM_TX | BPF_F_DONT_FRAGMENT | BPF_F_SEQ_NUMBER |
		    NO_KEY,
};
/* IP_TUNNEL_*_BIT */
enum { CSUM = 1, KEY = 4, SEQ = 8, DONT_FRAGMENT = 0x100, OPTIONS = 0xd800, NOCACHE = 0x2000 };
enum { LABEL = 0xfffff };

SHIM_ASSERT(sizeof(struct bpf_tunnel_key) == sizeof(((struct shim_packet *)0)->tunnel_key));

/* A size that the structure has, or had once. */
static bool is_size(u32 size)
{
	return size == sizeof(struct bpf_tunnel_key) ||
	       size == __builtin_offsetof(struct bpf_tunnel_key, local_ipv6) ||
	       size == __builtin_offsetof(struct bpf_tunnel_key, tunnel_label) ||
	       size == __builtin_offsetof(struct bpf_tunnel_key, tunnel_ext) ||
	       size == __builtin_offsetof(struct bpf_tunnel_key, remote_ipv6) + 4;
}

HELPER(skb_set_tunnel_key)
{
	struct shim_packet *p = packet(r1);
	struct bpf_tunnel_key *key = (void *)p->tunnel_key, from = { 0 };
	u32 parts = r4 & BPF_F_TUNINFO_IPV6 ? 16 : 4;

	UNUSED(r5, (u64)run);
	if (r4 & ~(u64)SET_FLAGS || !is_size((u32)r3))
		return (u64)-EINVAL;
	memcpy(&from, (const void *)r2, (u32)r3);
	if ((parts == 4 && from.tunnel_label) || from.tunnel_ext)
		return (u64)-EINVAL;
	memset(key, 0, sizeof(*key));
	key->tunnel_id = from.tunnel_id;
	key->tunnel_tos = from.tunnel_tos;
	key->tunnel_ttl = from.tunnel_ttl;
	key->tunnel_label = from.tunnel_label & LABEL;
	/* what is sent to, one day, is read as what came from it */
	memcpy(key->local_ipv6, from.remote_ipv6, parts);
	memcpy(key->remote_ipv6, from.local_ipv6, parts);
	p->tunnel = parts == 4 ? SHIM_TUNNEL_IPV4 : SHIM_TUNNEL_IPV6;
	p->tunnel_size = 0;
	p->tunnel_flags = (u16)(NOCACHE | (r4 & BPF_F_DONT_FRAGMENT ? DONT_FRAGMENT : 0) |
				(r4 & BPF_F_ZERO_CSUM_TX ? 0 : CSUM) |
				(r4 & BPF_F_SEQ_NUMBER ? SEQ : 0) | (r4 & NO_KEY ? 0 : KEY));
	return 0;
}

static long get_key(const struct shim_packet *p, void *to, u32 size, u64 flags)
{
	struct bpf_tunnel_key key;

	if (!p->tunnel || flags & ~(u64)GET_FLAGS)
		return -EINVAL;
	if ((p->tunnel == SHIM_TUNNEL_IPV6) != (flags & BPF_F_TUNINFO_IPV6))
		return -E_PROTO;
	if (!is_size(size) || (size == 8 && p->tunnel == SHIM_TUNNEL_IPV6))
		return -EINVAL;
	memcpy(&key, p->tunnel_key, sizeof(key));
	if (flags & ~(u64)BPF_F_TUNINFO_IPV6)
		key.tunnel_ext = __builtin_bswap16(p->tunnel_flags);
	memcpy(to, &key, size);
	return 0;
}

HELPER(skb_get_tunnel_key)
{
	long err = get_key(packet(r1), (void *)r2, (u32)r3, r4);

	UNUSED(r5, (u64)run);
	if (err)
		memset((void *)r2, 0, (u32)r3);
	return (u64)err;
}

HELPER(skb_set_tunnel_opt)
{
	struct shim_packet *p = packet(r1);
	u32 size = (u32)r3;

	UNUSED(r4, r5, (u64)run);
	if (!p->tunnel || size & 3)
		return (u64)-EINVAL;
	if (size > sizeof(p->tunnel_options))
		return (u64)-ENOMEM;
	memcpy(p->tunnel_options, (const void *)r2, size);
	p->tunnel_size = (u16)size;
	p->tunnel_flags |= OPTIONS;
	return 0;
}

HELPER(skb_get_tunnel_opt)
{
	struct shim_packet *p = packet(r1);
	u32 size = p->tunnel_flags & OPTIONS ? p->tunnel_size : 0;

	UNUSED(r4, r5, (u64)run);
	memset((void *)r2, 0, (u32)r3);
	if (!(p->tunnel_flags & OPTIONS))
		return (u64)-ENOENT;
	if ((u32)r3 < size)
		return (u64)-ENOMEM;
	memcpy((void *)r2, p->tunnel_options, size);
	return size;
}
