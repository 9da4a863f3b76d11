/*
 * bpf(2) attributes as messages: what each command's pointers lead to, by a table, and back.
 *
 * The surface decides nothing here: memory that cannot be read travels as an empty segment with
 * err = -EFAULT, and the backend answers in the kernel's order of checks.
 */
#include <string.h>

#include "surface.h"

enum { IN = SHIM_SEG_IN, OUT = SHIM_SEG_OUT, INOUT = IN | OUT };
enum { STRING = 1, U32_TIMES = 2, FIXED = 3 }; /* how a segment's length is told */
enum { MAX_IN = 1 << 26, MAX_REFS = 1024 };
enum { MAX_INSNS = 1000000 }; /* BPF_COMPLEXITY_LIMIT_INSNS: more is E2BIG whatever they are */

struct pointer {
	u8 cmd;
	u8 dir;
	u8 how;
	u8 off; /* of the pointer */
	u8 len_off; /* U32_TIMES: length = u32 there * (u32 at times_off, or times) */
	u8 times_off;
	u16 times; /* STRING, FIXED: bytes at most */
};

/* union bpf_attr of linux/bpf.h (6.18), kernel/bpf/syscall.c for what is read and written. */
static const struct pointer pointers[] = {
	{ 0, IN, U32_TIMES, 80, 88, 0, 1 }, /* MAP_CREATE excl_prog_hash */
	{ 5, IN, U32_TIMES, 8, 4, 0, 8 }, /* PROG_LOAD insns */
	{ 5, IN, STRING, 16, 0, 0, 128 }, /* license */
	{ 5, OUT, U32_TIMES, 32, 28, 0, 1 }, /* log_buf */
	{ 5, IN, U32_TIMES, 80, 88, 76, 0 }, /* func_info */
	{ 5, IN, U32_TIMES, 96, 104, 92, 0 }, /* line_info */
	{ 5, IN, U32_TIMES, 128, 116, 136, 0 }, /* core_relos */
	{ 5, IN, U32_TIMES, 152, 160, 0, 1 }, /* signature */
	{ 6, IN, STRING, 0, 0, 0, 4096 }, /* OBJ_PIN pathname */
	{ 7, IN, STRING, 0, 0, 0, 4096 }, /* OBJ_GET */
	{ 10, IN, U32_TIMES, 16, 8, 0, 1 }, /* PROG_TEST_RUN data_in */
	{ 10, OUT, U32_TIMES, 24, 12, 0, 1 }, /* data_out */
	{ 10, IN, U32_TIMES, 48, 40, 0, 1 }, /* ctx_in */
	{ 10, OUT, U32_TIMES, 56, 44, 0, 1 }, /* ctx_out */
	{ 15, INOUT, U32_TIMES, 8, 4, 0, 1 }, /* OBJ_GET_INFO_BY_FD info */
	{ 16, OUT, U32_TIMES, 16, 24, 0, 4 }, /* PROG_QUERY prog_ids */
	{ 17, IN, STRING, 0, 0, 0, 128 }, /* RAW_TRACEPOINT_OPEN name */
	{ 18, IN, U32_TIMES, 0, 16, 0, 1 }, /* BTF_LOAD btf */
	{ 18, OUT, U32_TIMES, 8, 20, 0, 1 }, /* btf_log_buf */
	{ 20, OUT, U32_TIMES, 16, 12, 0, 1 }, /* TASK_FD_QUERY buf */
	{ 28, IN, STRING, 16, 0, 0, 4096 }, /* LINK_CREATE uprobe_multi: path (see is_multi) */
	{ 28, IN, U32_TIMES, 24, 48, 0, 8 }, /* offsets */
	{ 28, IN, U32_TIMES, 32, 48, 0, 8 }, /* ref_ctr_offsets */
	{ 28, IN, U32_TIMES, 40, 48, 0, 8 }, /* cookies */
};

/* Fields that name a descriptor. 0xff ends a row; zero is a descriptor only where it can be. */
static const struct {
	u8 cmd;
	u8 off[5];
} descriptors[] = {
	{ 0, { 20, 48, 72, 76, 0xff } },
	{ 1, { 0, 0xff } },
	{ 2, { 0, 0xff } },
	{ 3, { 0, 0xff } },
	{ 4, { 0, 0xff } },
	{ 5, { 72, 112, 144, 0xff } },
	{ 6, { 8, 16, 0xff } },
	{ 7, { 16, 0xff } },
	{ 8, { 0, 4, 16, 0xff } },
	{ 9, { 0, 4, 0xff } },
	{ 10, { 0, 0xff } },
	{ 15, { 0, 0xff } },
	{ 16, { 0, 0xff } },
	{ 17, { 8, 0xff } },
	{ 18, { 36, 0xff } },
	{ 19, { 12, 0xff } },
	{ 20, { 4, 0xff } },
	{ 21, { 0, 0xff } },
	{ 22, { 0, 0xff } },
	{ 24, { 36, 0xff } },
	{ 25, { 36, 0xff } },
	{ 26, { 36, 0xff } },
	{ 27, { 36, 0xff } },
	{ 28, { 0, 4, 0xff } },
	{ 29, { 0, 4, 12, 0xff } },
	{ 33, { 0, 0xff } },
	{ 34, { 0, 0xff } },
	{ 35, { 0, 4, 0xff } },
	{ 36, { 4, 0xff } },
	{ 37, { 16, 0xff } },
};

/* Pointers inside what OBJ_GET_INFO_BY_FD is given: struct bpf_*_info. */
static const struct {
	u8 kind;
	u8 off, len_off, times;
} nested[] = {
	{ SHIM_FD_MAP, 88, 96, 1 }, /* hash */
	{ SHIM_FD_PROG, 24, 16, 1 }, /* jited_prog_insns */
	{ SHIM_FD_PROG, 32, 20, 1 }, /* xlated_prog_insns */
	{ SHIM_FD_PROG, 56, 52, 4 }, /* map_ids */
	{ SHIM_FD_PROG, 112, 104, 8 }, /* jited_ksyms */
	{ SHIM_FD_PROG, 120, 108, 4 }, /* jited_func_lens */
	{ SHIM_FD_PROG, 136, 144, 8 }, /* func_info */
	{ SHIM_FD_PROG, 152, 148, 16 }, /* line_info */
	{ SHIM_FD_PROG, 160, 168, 8 }, /* jited_line_info */
	{ SHIM_FD_PROG, 184, 180, 8 }, /* prog_tags */
	{ SHIM_FD_BTF, 0, 8, 1 }, /* btf */
	{ SHIM_FD_BTF, 16, 24, 1 }, /* name */
	/* a union: of rows with one pointer the largest counts, and the backend knows */
	{ SHIM_FD_LINK, 16, 24, 1 }, /* raw_tracepoint.tp_name */
	{ SHIM_FD_LINK, 16, 48, 1 }, /* uprobe_multi: path */
	{ SHIM_FD_LINK, 24, 32, 1 }, /* perf_event: file_name */
	{ SHIM_FD_LINK, 24, 52, 8 }, /* uprobe_multi: offsets */
	{ SHIM_FD_LINK, 32, 52, 8 }, /* ref_ctr_offsets */
	{ SHIM_FD_LINK, 40, 52, 8 }, /* cookies */
};

/* Under the rpc lock. */
static struct shim_fd_ref refs[MAX_REFS];
static u32 nrefs;

static void add_ref(s32 fd)
{
	if (fd < 0 || nrefs == MAX_REFS)
		return;
	for (u32 i = 0; i < nrefs; i++)
		if (refs[i].fd == fd)
			return;
	if (!surface_identity(fd, &refs[nrefs]))
		refs[nrefs].mode = surface_fd_mode(fd);
	refs[nrefs++].fd = fd;
}

static void add_seg(struct gathered *g, u32 off, u32 dir, u64 addr, u64 len)
{
	if (!addr || g->nsegs == array_size(g->seg))
		return;
	g->seg[g->nsegs++] = (struct shim_seg){ .attr_off = off, .dir = dir, .addr = addr, .len = len };
}

/* Only links of many uprobes have pointers: BPF_TRACE_UPROBE_MULTI, BPF_TRACE_UPROBE_SESSION. */
static bool is_multi(const u8 *attr)
{
	u32 type = attr_u32(attr, 8);

	return type == 48 || type == 57;
}

static void list_pointers(struct gathered *g, u32 cmd, const u8 *attr)
{
	for (u32 i = 0; i < array_size(pointers); i++) {
		const struct pointer *p = &pointers[i];
		u64 len = p->times;

		if (p->cmd != cmd || (cmd == 28 && !is_multi(attr)))
			continue;
		if (p->how == U32_TIMES)
			len = (u64)attr_u32(attr, p->len_off) *
			      (p->times_off ? attr_u32(attr, p->times_off) : p->times);
		if (p->dir == OUT && !len)
			continue;
		add_seg(g, p->off, p->dir, attr_u64(attr, p->off), len);
	}
}

static void list_nested(struct gathered *g, u32 kind, u64 info, u64 info_len)
{
	u8 copy[256] = { 0 };
	u64 have = info_len < sizeof(copy) ? info_len : sizeof(copy);

	if (shim_copy_from(copy, info, have))
		return;
	for (u32 i = 0; i < array_size(nested); i++) {
		u32 off = nested[i].off | SHIM_SEG_NESTED;
		u64 len = (u64)attr_u32(copy, nested[i].len_off) * nested[i].times;
		struct shim_seg *last = g->nsegs ? &g->seg[g->nsegs - 1] : NULL;

		if (nested[i].kind != kind || nested[i].off + 8ULL > have)
			continue;
		if (last && last->attr_off == off)
			last->len = len > last->len ? len : last->len;
		else
			add_seg(g, off, OUT, attr_u64(copy, nested[i].off), len);
	}
}

/* Reads one segment into the request; its len becomes what travels. */
static long read_seg(struct rpc *r, struct shim_seg *seg, bool string)
{
	u8 *to;
	long n;

	if (!(seg->dir & IN))
		return 0;
	if (seg->len > MAX_IN || (seg->attr_off == 8 && seg->len > MAX_INSNS * 8ULL)) {
		seg->err = -E2BIG;
		seg->len = 0;
		return 0;
	}
	to = rpc_room(r, seg->len);
	if (!to)
		return -ENOMEM;
	if (string) {
		n = shim_strncpy_from(to, seg->addr, seg->len);
		if (n >= 0 && (u64)n < seg->len) {
			r->out_len -= seg->len - (u64)n;
			seg->len = (u64)n;
		}
	} else {
		n = seg->len ? shim_copy_from(to, seg->addr, seg->len) : 0;
	}
	if (n < 0) {
		r->out_len -= seg->len;
		seg->err = -EFAULT;
		seg->len = 0;
	}
	return 0;
}

/* How many of fd_array a call of a kernel function needs: off says which BTF it is of, 0 the kernel's. */
static u32 called_from(const u8 *insn)
{
	u32 off = insn[2] | (u32)insn[3] << 8;

	return insn[0] == 0x85 && insn[1] >> 4 == 2 && off < MAX_REFS && off ? off + 1 : 0;
}

/* Descriptors in ld_imm64 (BPF_PSEUDO_MAP_FD, _VALUE; of BTF, _BTF_ID), and how many of fd_array are
 * used. */
static u32 scan_insns(const u8 *insns, u64 len)
{
	u32 used = 0;

	for (u64 i = 0; i + 16 <= len; i += 8) {
		u32 src = insns[i + 1] >> 4, imm = attr_u32(insns, (u32)i + 4),
		    of = called_from(insns + i);

		used = of > used ? of : used;
		if (insns[i] != 0x18)
			continue;
		if (src == 1 || src == 2)
			add_ref((s32)imm);
		if (src == 3 && attr_u32(insns, (u32)i + 12))
			add_ref((s32)attr_u32(insns, (u32)i + 12));
		if ((src == 5 || src == 6) && imm < MAX_REFS && imm >= used)
			used = imm + 1;
		i += 8;
	}
	return used;
}

static void list_fd_array(struct gathered *g, const u8 *attr, u32 used)
{
	u32 count = attr_u32(attr, 148), fd;
	u64 at = attr_u64(attr, 120);

	if (count < used)
		count = used;
	if (!at || !count)
		return;
	if (count > MAX_REFS)
		count = MAX_REFS;
	add_seg(g, 120, IN, at, count * 4ULL);
	for (u32 i = 0; i < count; i++)
		if (!shim_copy_from(&fd, at + i * 4ULL, 4))
			add_ref((s32)fd);
}

static void list_descriptors(u32 cmd, const u8 *attr)
{
	nrefs = 0;
	for (u32 i = 0; i < array_size(descriptors); i++)
		if (descriptors[i].cmd == cmd)
			for (u32 j = 0; j < 5 && descriptors[i].off[j] != 0xff; j++)
				add_ref((s32)attr_u32(attr, descriptors[i].off[j]));
}

/* Values and keys of elements that the backend keeps: values are descriptors. */
static void list_element(struct gathered *g, u32 cmd, const u8 *attr, u32 key_size)
{
	u32 fd;

	add_seg(g, 8, IN, attr_u64(attr, 8), key_size);
	if (cmd != 2)
		return;
	add_seg(g, 16, IN, attr_u64(attr, 16), 4);
	if (!shim_copy_from(&fd, attr_u64(attr, 16), 4))
		add_ref((s32)fd);
}

static bool is_string(u32 cmd, const struct shim_seg *seg)
{
	for (u32 i = 0; i < array_size(pointers); i++)
		if (pointers[i].cmd == cmd && pointers[i].off == seg->attr_off)
			return pointers[i].how == STRING;
	return false;
}

long surface_gather(struct rpc *r, struct gathered *g, u32 cmd, const u8 *attr, u32 size, u32 hint)
{
	struct shim_bpf_req req = { .cmd = cmd, .attr_size = size };
	u32 sent = size < BPF_ATTR_SIZE ? size : BPF_ATTR_SIZE;
	struct rpc before = *r;
	size_t segs_at, refs_at;
	long err = 0;
	u8 *to;

	g->nsegs = 0;
	list_descriptors(cmd, attr);
	list_pointers(g, cmd, attr);
	if (cmd == 15)
		list_nested(g, hint, attr_u64(attr, 8), attr_u32(attr, 4));
	if (cmd == 2 || cmd == 3)
		list_element(g, cmd, attr, hint);
	if (cmd == 5 && g->nsegs && attr_u64(attr, 8) && g->seg[0].len <= MAX_INSNS * 8ULL) {
		/* the instructions must be here to know what they name */
		to = rpc_room(r, g->seg[0].len);
		if (!to)
			return -ENOMEM;
		if (g->seg[0].len && !shim_copy_from(to, g->seg[0].addr, g->seg[0].len))
			list_fd_array(g, attr, scan_insns(to, g->seg[0].len));
		r->out_len = before.out_len;
	}
	req.nsegs = g->nsegs;
	req.nrefs = nrefs;
	segs_at = r->out_len + sizeof(req) + sent;
	refs_at = segs_at + g->nsegs * sizeof(struct shim_seg);
	to = rpc_room(r, sizeof(req) + sent + g->nsegs * sizeof(struct shim_seg) +
				 nrefs * sizeof(struct shim_fd_ref));
	if (!to)
		return -ENOMEM;
	memcpy(to, &req, sizeof(req));
	memcpy(to + sizeof(req), attr, sent);
	for (u32 i = 0; i < g->nsegs && !err; i++)
		err = read_seg(r, &g->seg[i], is_string(cmd, &g->seg[i]));
	if (err)
		return err;
	memcpy(r->out + segs_at, g->seg, g->nsegs * sizeof(struct shim_seg));
	memcpy(r->out + refs_at, refs, nrefs * sizeof(struct shim_fd_ref));
	return 0;
}

long surface_scatter(struct rpc *r, const struct gathered *g, u64 uattr, size_t *tail)
{
	struct shim_bpf_reply head;
	struct shim_seg_out out;
	size_t at = sizeof(head), data;
	long err = 0;

	*tail = r->in_len;
	if (r->in_len < sizeof(head))
		return r->in_len ? -EIO : 0;
	memcpy(&head, r->in, sizeof(head));
	data = at + head.attr_len + (size_t)head.nsegs * sizeof(out);
	if (head.attr_len > BPF_ATTR_SIZE || head.nsegs > 64 || data > r->in_len)
		return -EIO;
	/* as the kernel: wherever the attr given ends; what depends on that is the backend's to know */
	if (head.attr_len && shim_copy_to(uattr + head.attr_off, r->in + at, head.attr_len))
		err = -EFAULT;
	at += head.attr_len;
	for (u32 i = 0; i < head.nsegs; i++, at += sizeof(out)) {
		memcpy(&out, r->in + at, sizeof(out));
		if (out.seg >= g->nsegs || out.len > r->in_len - data)
			return -EIO;
		if (out.off + out.len > g->seg[out.seg].len || !(g->seg[out.seg].dir & OUT))
			return -EIO;
		if (out.len && shim_copy_to(g->seg[out.seg].addr + out.off, r->in + data, out.len))
			err = -EFAULT;
		data += out.len;
	}
	*tail = data;
	return err;
}
