/*
 * What an skb in a test run tells of its socket, devices and metadata. The kernel gives it a socket
 * of the test's own: of no protocol, bound to nothing, of the caller's namespace and cgroup. IPsec
 * data it has none, nor a route. Source: net/core/filter.c, net/bpf/test_run.c (6.18).
 */
#include "helpers.h"
#include "packet.h"

enum { NR_CLOSE = 3, NR_IOCTL = 16, NR_SOCKET = 41, NR_GETSOCKOPT = 55 };
enum { AF_UNIX_ = 1, SOCK_DGRAM_ = 2, CLOEXEC = 02000000, SOL_SOCKET_ = 1 };
enum { SO_COOKIE_ = 57, SO_NETNS_COOKIE_ = 71 };
enum { GIFNAME = 0x8910, GIFMTU = 0x8921, GIFHWADDR = 0x8927 };
enum { ARP_ETHER = 1, ARP_LOOPBACK = 772 };

/* A socket option of 64 bits of a new socket in this namespace. */
static u64 option(u32 number)
{
	long fd = shim_sys3(NR_SOCKET, AF_UNIX_, SOCK_DGRAM_ | CLOEXEC, 0);
	u64 value = 0;
	u32 size = sizeof(value);

	shim_sys6(NR_GETSOCKOPT, fd, SOL_SOCKET_, number, (u64)&value, (u64)&size, 0);
	shim_sys2(NR_CLOSE, fd, 0);
	return value;
}

HELPER(get_socket_cookie)
{
	struct shim_packet *p = packet(r1);

	UNUSED(r2, r3, r4, r5, (u64)run);
	if (!p->cookie)
		p->cookie = option(SO_COOKIE_);
	return p->cookie;
}

/* Of no socket (NULL) it is the first namespace's, as which the caller's counts. */
HELPER(get_netns_cookie)
{
	UNUSED(r1, r2, r3, r4, r5, (u64)run);
	return option(SO_NETNS_COOKIE_);
}

HELPER(sk_fullsock)
{
	UNUSED(r2, r3, r4, r5, (u64)run);
	return r1;
}

/* bpf_tcp_sock and others of a socket that is not of their kind: NULL. No route, no class of
 * cgroup v1, and sockets that nobody owns are root's: 0. */
HELPER(zero)
{
	UNUSED(r1, r2, r3, r4, r5, (u64)run);
	return 0;
}

HELPER(skb_cgroup_id)
{
	return helper_get_current_cgroup_id(r1, r2, r3, r4, r5, run);
}

HELPER(skb_ancestor_cgroup_id)
{
	UNUSED(r1);
	return helper_get_current_ancestor_cgroup_id(r2, r2, r3, r4, r5, run);
}

HELPER(skb_under_cgroup)
{
	UNUSED(r1);
	return helper_current_task_under_cgroup(r2, r3, r3, r4, r5, run);
}

HELPER(skb_get_xfrm_state)
{
	UNUSED(r1, r2, r5, (u64)run);
	memset((void *)r3, 0, (u32)r4);
	return (u64)-EINVAL;
}

/* bpf_redirect_peer(index, flags), bpf_redirect_neigh(index, params, size, flags) */
HELPER(redirect_peer)
{
	UNUSED(r1, r3, r4, r5, (u64)run);
	return r2 ? TC_SHOT : TC_REDIRECT;
}

HELPER(redirect_neigh)
{
	UNUSED(r1, r2, r5, (u64)run);
	return r4 || ((u32)r3 && (u32)r3 < sizeof(struct bpf_redir_neigh)) ? TC_SHOT : TC_REDIRECT;
}

/* struct ifreq */
struct ifreq {
	char name[16];
	union {
		s32 number;
		u16 family;
		u8 room[24];
	};
};

/* A network device's MTU, and the length of its headers; or a negative errno. */
static long device_mtu(u32 index, u32 *header)
{
	struct ifreq ask = { .number = (s32)index };
	long fd = shim_sys3(NR_SOCKET, AF_UNIX_, SOCK_DGRAM_ | CLOEXEC, 0), mtu = -ENODEV;

	if (!shim_sys3(NR_IOCTL, fd, GIFNAME, &ask) && !shim_sys3(NR_IOCTL, fd, GIFHWADDR, &ask)) {
		*header = ask.family == ARP_ETHER || ask.family == ARP_LOOPBACK ? ETH_LEN : 0;
		if (!shim_sys3(NR_IOCTL, fd, GIFMTU, &ask))
			mtu = ask.number;
	}
	shim_sys2(NR_CLOSE, fd, 0);
	return mtu;
}

HELPER(check_mtu)
{
	struct shim_packet *p = packet(r1);
	bool xdp = p->kind == SHIM_PACKET_XDP, gso = !xdp && *field(p, SKB_GSO_SIZE), fits;
	u32 *told = (u32 *)r3, header = 0;
	u32 own = *field(p, xdp ? XDP_IFINDEX : SKB_IFINDEX);
	s32 size;
	long mtu;

	UNUSED((u64)run);
	if (r5 & ~(u64)(xdp ? 0 : BPF_MTU_CHK_SEGS) || (r5 && ((s32)r4 || *told)))
		return (u64)-EINVAL;
	mtu = device_mtu((u32)r2 ? (u32)r2 : own, &header);
	if (mtu < 0)
		return (u64)mtu;
	size = (s32)((*told ? *told + header : (u32)length(p)) + (u32)r4);
	fits = size <= (s32)((u32)mtu + header);
	if (!fits && gso && r5 && p->transport == NO_TRANSPORT)
		return (u64)-EINVAL;
	*told = (u32)mtu;
	/* of a segment: headers between, and what it has behind them */
	size = p->transport - p->headroom - (s32)(p->network - p->data);
	if (!fits && gso && r5 && (u32)size + *field(p, SKB_GSO_SIZE) > (u32)mtu)
		return BPF_MTU_CHK_RET_SEGS_TOOBIG;
	return fits || gso ? BPF_MTU_CHK_RET_SUCCESS : BPF_MTU_CHK_RET_FRAG_NEEDED;
}
