/*
 * BPF_PROG_TEST_RUN: the program runs in the process that asks, on a packet or context of its own.
 * The backend has checked the fields and says how the context begins; what comes out is written as
 * the kernel does (net/bpf/test_run.c: bpf_test_run, bpf_test_finish, bpf_ctx_finish).
 */
#include <linux/bpf.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "agent.h"
#include "shim_packet.h"
#include "surface.h"

/* offsets in union bpf_attr */
enum { RETVAL = 4, DATA_SIZE_IN = 8, DATA_SIZE_OUT = 12, DATA_IN = 16, DATA_OUT = 24, DURATION = 36 };
enum { CTX_SIZE_OUT = 44, CTX_IN = 48, CTX_OUT = 56 };
/* An skb may grow to 16 KiB, at either end. An XDP packet has a page: headroom, data, and at the end
 * what the kernel keeps for struct skb_shared_info; fragments follow. */
enum { AREA = 20 << 12, SKB_HEAD = 32 << 10, XDP_HEADROOM = 256, XDP_LIMIT = 4096 - 320 };
enum { NET_SKB_PAD = 64 };
enum { ETH_LEN = 14, LONG_BATCH = 500000 /* ns */, MAX_BATCH = 1 << 16, MAX_CTX = 65536 };

struct outcome {
	u32 retval;
	u32 duration; /* ns of one run */
};

static u64 now_ns(void)
{
	struct timespec t;

	shim_sys2(SYS_clock_gettime, CLOCK_MONOTONIC, &t);
	return (u64)t.tv_sec * 1000000000ULL + (u64)t.tv_nsec;
}

enum { SIG_IGN_ = 1, NSIG_ = 64 };
/* Blocked in a run: all but those that an instruction of it may cause. */
#define BIT(sig) (1ULL << ((sig)-1))
#define RUN_MASK (~(BIT(4) | BIT(5) | BIT(7) | BIT(8) | BIT(11)))
#define HARMLESS (BIT(17) | BIT(18) | BIT(23) | BIT(28)) /* SIGCHLD, CONT, URG, WINCH by default */

/* A signal waits that would interrupt a system call; mask: what was blocked before. */
static bool interrupted(u64 mask)
{
	struct {
		u64 handler, flags, restorer, mask;
	} action;
	u64 pending = 0;

	shim_sys2(SYS_rt_sigpending, &pending, 8);
	pending &= ~mask & RUN_MASK;
	for (u32 sig = 1; pending && sig <= NSIG_; sig++) {
		if (!(pending & BIT(sig)) || shim_sys4(SYS_rt_sigaction, sig, 0, &action, 8))
			continue;
		if (action.handler > SIG_IGN_ || (!action.handler && !(BIT(sig) & HARMLESS)))
			return true;
	}
	return false;
}

/* In batches that grow until one takes half a millisecond: a look at clock and signals is dear. */
static long batches(struct agent_run *run, void *ctx, u32 repeat, u64 mask, struct outcome *out)
{
	u64 spent = 0, retval = 0, began, took;
	u32 done = 0;
	long err;

	run->times = 1;
	for (;;) {
		began = now_ns();
		err = agent_run_prog(run, ctx, &retval);
		took = now_ns() - began;
		if (err)
			return err;
		spent += took;
		done += run->times;
		if (done >= repeat)
			break;
		if (interrupted(mask) || agent_alone_sent())
			return -EINTR;
		if (took < LONG_BATCH / 2 && run->times < MAX_BATCH)
			run->times *= 2;
		if (run->times > repeat - done)
			run->times = repeat - done;
	}
	spent /= done;
	out->retval = (u32)retval;
	out->duration = spent > 0xffffffff ? 0xffffffff : (u32)spent;
	return 0;
}

/* What programs read they may read quickly meanwhile. */
static long reading(struct agent_run *run, void *ctx, u32 repeat, u64 mask, struct outcome *out)
{
	struct agent_alone alone = { mask, &surface.self->begun, &surface.self->ended };
	long err;

	if (!surface.asking)
		agent_alone_begin(&alone);
	err = batches(run, ctx, repeat, mask, out);
	if (!surface.asking)
		agent_alone_end();
	return err;
}

static long run_many(const struct shim_act_run *act, void *ctx, struct outcome *out)
{
	struct agent_run run = { surface.session_id,	    act->prog_id, act->cpu, 1,
				 act->kind >= SHIM_RUN_SKB, NULL };
	u32 repeat = act->repeat ? act->repeat : 1;
	u64 mask = 0, set = RUN_MASK;
	long err;

	surface_timers_begin();
	store_release(&shim_caller, load_acquire(&shim_run_caller));
	shim_sys4(SYS_rt_sigprocmask, 0 /* SIG_BLOCK */, &set, &mask, 8);
	err = reading(&run, ctx, repeat, mask, out);
	if (err == -ENOENT) { /* it is not in this process yet */
		err = surface_sync_agent();
		if (!err)
			err = reading(&run, ctx, repeat, mask, out);
	}
	shim_sys4(SYS_rt_sigprocmask, 2 /* SIG_SETMASK */, &mask, 0, 8);
	return err;
}

static long put_u32(u64 at, u32 value)
{
	return shim_copy_to(at, &value, 4) ? -EFAULT : 0;
}

/* What is told of the context: what the caller gave, with the fields that a program may change. */
static const struct {
	u8 off, len;
} skb_out[] = {
	{ 8, 4 },   { 32, 4 },	{ 36, 4 },  { 40, 4 },	{ 48, 20 },
	{ 152, 8 }, { 160, 4 }, { 164, 4 }, { 184, 8 },
};

static void ctx_to_user(const struct shim_act_run *act, const struct shim_packet *p, u8 *out)
{
	u32 meta = (u32)(p->data - p->data_meta), end = (u32)(p->data_end - p->data_meta);

	memcpy(out, act->out, SHIM_PACKET_CTX);
	if (act->kind == SHIM_RUN_XDP) {
		memcpy(out, &meta, 4);
		memcpy(out + 4, &end, 4);
		return;
	}
	for (u32 i = 0; i < array_size(skb_out); i++)
		memcpy(out + skb_out[i].off, p->ctx + skb_out[i].off, skb_out[i].len);
}

static long ctx_finish(const struct shim_act_run *act, const struct shim_packet *p, const u8 *attr,
		       u64 uattr)
{
	u32 size = act->kind == SHIM_RUN_XDP ? 24 : SHIM_PACKET_CTX,
	    room = attr_u32(attr, CTX_SIZE_OUT);
	u64 to = attr_u64(attr, CTX_OUT);
	u8 out[SHIM_PACKET_CTX];

	if (!act->ctx_out || !to)
		return 0;
	ctx_to_user(act, p, out);
	if (shim_copy_to(to, out, room < size ? room : size) || put_u32(uattr + CTX_SIZE_OUT, size))
		return room < size ? -ENOSPC : -EFAULT;
	return room < size ? -ENOSPC : 0;
}

/* The packet from start on, then its fragments, then the figures. */
static long finish(const struct shim_packet *p, u64 start, const u8 *attr, u64 uattr,
		   const struct outcome *out)
{
	u64 to = attr_u64(attr, DATA_OUT);
	u32 linear = (u32)(p->data_end - start), room = attr_u32(attr, DATA_SIZE_OUT);
	u32 size = linear + p->frags_size, copy = room && size > room ? room : size;
	bool cut = copy < size;

	if (to) {
		if (p->frags_size && copy < p->frags_size)
			return -ENOSPC;
		if (shim_copy_to(to, (void *)start, copy - p->frags_size) ||
		    shim_copy_to(to + copy - p->frags_size, (void *)p->frags, p->frags_size))
			return cut ? -ENOSPC : -EFAULT;
	}
	if (put_u32(uattr + DATA_SIZE_OUT, size) || put_u32(uattr + RETVAL, out->retval) ||
	    put_u32(uattr + DURATION, out->duration))
		return cut ? -ENOSPC : -EFAULT;
	return cut ? -ENOSPC : 0;
}

/* The socket that the kernel gives an skb: closed, with what addresses the packet has. */
static void place_socket(struct shim_packet *p)
{
	struct bpf_sock *sk = (void *)p->sk;
	const struct __sk_buff *skb = (const void *)p->ctx;

	sk->family = skb->family;
	sk->src_ip4 = skb->local_ip4;
	sk->dst_ip4 = skb->remote_ip4;
	memcpy(sk->src_ip6, skb->local_ip6, sizeof(sk->src_ip6));
	memcpy(sk->dst_ip6, skb->remote_ip6, sizeof(sk->dst_ip6));
	sk->state = BPF_TCP_CLOSE;
	sk->rx_queue_mapping = -1;
	*(u64 *)(p->ctx + offsetof(struct __sk_buff, sk)) = (u64)p->sk;
}
_Static_assert(sizeof(struct bpf_sock) == sizeof(((struct shim_packet *)0)->sk), "a socket");

/* Where the parts of the packet lie in an area. */
static void place(struct shim_packet *p, const struct shim_act_run *act, u64 area, u32 size)
{
	memset(p, 0, sizeof(*p));
	memcpy(p->ctx, act->ctx, sizeof(p->ctx));
	p->frags = area + 4096;
	p->head = area;
	if (act->kind == SHIM_RUN_XDP) {
		p->kind = SHIM_PACKET_XDP;
		p->limit = area + XDP_LIMIT;
		p->data_meta = area + XDP_HEADROOM - act->meta;
		p->data = area + XDP_HEADROOM;
		p->data_end = p->data_meta + act->linear;
		p->frags_size = size - act->linear;
		p->mac = p->network = p->data;
		return;
	}
	p->kind = SHIM_PACKET_SKB;
	p->limit = area + AREA;
	p->mac = area + SKB_HEAD;
	p->network = p->mac + ETH_LEN;
	p->data = act->kind == SHIM_RUN_SKB ? p->mac : p->network;
	p->data_meta = p->data;
	p->headroom = (u16)(NET_SKB_PAD + (p->data - p->mac));
	p->transport = 0xffff;
	p->data_end = p->mac + size;
	place_socket(p);
}

static long run_packet(const struct shim_act_run *act, const u8 *attr, u64 uattr)
{
	u32 size = attr_u32(attr, DATA_SIZE_IN),
	    linear = act->kind == SHIM_RUN_XDP ? act->linear : size;
	u64 from = attr_u64(attr, DATA_IN), start;
	struct shim_packet p;
	struct outcome out;
	long err, area;

	area = shim_sys6(SYS_mmap, 0, AREA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (area < 0)
		return -ENOMEM;
	place(&p, act, (u64)area, size);
	start = act->kind == SHIM_RUN_XDP ? p.data_meta : p.mac;
	err = shim_copy_from((void *)start, from, linear) ||
	      shim_copy_from((void *)p.frags, from + linear, p.frags_size);
	err = err ? -EFAULT : run_many(act, &p, &out);
	if (!err) {
		start = p.data;
		if (act->kind == SHIM_RUN_XDP)
			start = p.data_meta;
		if (act->kind == SHIM_RUN_SKB_L3) /* a header that tells nothing */
			memset((void *)(start -= ETH_LEN), 0, ETH_LEN);
		err = finish(&p, start, attr, uattr, &out);
	}
	if (!err)
		err = ctx_finish(act, &p, attr, uattr);
	shim_sys2(SYS_munmap, area, AREA);
	return err;
}

/* Programs whose context is memory that the caller gives. */
static long run_memory(const struct shim_act_run *act, const u8 *attr, u64 uattr)
{
	u64 at = attr_u64(attr, CTX_IN);
	struct outcome out;
	long err, area;

	if (act->ctx_size > MAX_CTX)
		return -EINVAL;
	area = shim_sys6(SYS_mmap, 0, MAX_CTX, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			 0);
	if (area < 0)
		return -ENOMEM;
	err = shim_copy_from((void *)area, at, act->ctx_size) ? -EFAULT : 0;
	if (!err)
		err = run_many(act, (void *)area, &out);
	if (!err)
		err = put_u32(uattr + RETVAL, out.retval);
	if (!err && act->kind == SHIM_RUN_BUFFER && shim_copy_to(at, (void *)area, act->ctx_size))
		err = -EFAULT;
	shim_sys2(SYS_munmap, area, MAX_CTX);
	return err;
}

static long run_kind(const struct shim_act_run *act, const u8 *attr, u64 uattr)
{
	switch (act->kind) {
	case SHIM_RUN_WORDS:
	case SHIM_RUN_BUFFER: return run_memory(act, attr, uattr);
	case SHIM_RUN_SKB:
	case SHIM_RUN_SKB_L3:
	case SHIM_RUN_XDP: return run_packet(act, attr, uattr);
	default: return -EIO;
	}
}

long surface_test_run(const struct shim_act_run *act, const u8 *attr, u64 uattr)
{
	long err = run_kind(act, attr, uattr);

	agent_alone_tell();
	return err;
}
