/* Batches, and whole maps by next keys or by batches. */
#include <stdlib.h>
#include <string.h>

#include "driver.h"

static size_t pair_size;

static int compare_pairs(const void *a, const void *b)
{
	return memcmp(a, b, pair_size);
}

/* n keys and values to the answer, as pairs; sorted where the order is not told. */
static void put_pairs(const uint8_t *k, const uint8_t *v, uint32_t n)
{
	uint8_t *first = out + out_len;

	pair_size = create.key_size + shown_bytes();
	if (out_len + n * pair_size > AREA)
		die("too many pairs");
	for (uint32_t i = 0; i < n; i++) {
		put(k + (size_t)i * create.key_size, create.key_size);
		show_value(out + out_len, v + i * value_bytes());
		out_len += shown_bytes();
	}
	if (seq.style & UNORDERED)
		qsort(first, n, pair_size, compare_pairs);
}

struct batch {
	uint8_t *in, *to; /* positions */
	uint8_t *k, *v;
	uint32_t count;
};

static int batch(int cmd, const struct op *op, struct batch *b)
{
	union bpf_attr a;
	int ret;

	memset(&a, 0, sizeof(a));
	a.batch.map_fd = which_fd(op);
	a.batch.in_batch = (uintptr_t)b->in;
	a.batch.out_batch = (uintptr_t)b->to;
	a.batch.keys = pointer(b->k, op->mode & 3);
	if (cmd != BPF_MAP_DELETE_BATCH)
		a.batch.values = pointer(b->v, op->mode >> 2 & 3);
	a.batch.count = b->count;
	a.batch.elem_flags = op->flags;
	a.batch.flags = op->stride == 255;
	if (op->mode & JUNK_TAIL)
		((uint8_t *)&a)[100] = 1;
	ret = bpf(cmd, &a, 120);
	b->count = a.batch.count;
	return ret;
}

static uint32_t bounded(uint32_t count)
{
	return count < 4096 ? count : 4096;
}

/* out_batch is shown where positions are keys; so is what came. */
void do_read_batch(const struct op *op)
{
	static uint8_t in[4096], to[4096];
	uint32_t room = bounded(op->count), got;
	size_t ksize = (size_t)room * create.key_size, vsize = room * value_bytes(), mark;
	struct batch b = {
		.to = to, .count = op->count, .k = key_buffer(ksize), .v = value_buffer(vsize)
	};
	int ret;

	memset(in, 0xff, sizeof(in));
	if (op->in == 1)
		memcpy(in, key_at(op->key), create.key_size);
	if (op->in)
		b.in = op->in == 3 ? (uint8_t *)0x1000 : in;
	memset(to, FILL, sizeof(to));
	memset(b.k, FILL, ksize);
	memset(b.v, FILL, vsize);
	ret = batch(op->cmd == READ_BATCH ? BPF_MAP_LOOKUP_BATCH : BPF_MAP_LOOKUP_AND_DELETE_BATCH, op,
		    &b);
	got = b.count <= room && (ret == 0 || ret == -ENOENT) ? b.count : 0;
	put32((uint32_t)ret);
	mark = (uint32_t)out_len;
	put32(0);
	put32(b.count);
	if (!(seq.style & UNORDERED))
		put(to, create.key_size < 4 ? 4 : create.key_size);
	put_pairs(b.k, b.v, got);
	*(uint32_t *)(void *)(out + mark) = (uint32_t)(out_len - mark - 4);
}

void do_write_batch(const struct op *op)
{
	uint32_t room = bounded(op->count);
	size_t ksize = (size_t)room * create.key_size, vsize = room * value_bytes();
	struct batch b = { .count = op->count, .k = key_buffer(ksize), .v = value_buffer(vsize) };
	int ret;

	for (uint32_t i = 0; i < room; i++) {
		memcpy(b.k + (size_t)i * create.key_size, key_at(op->key + i * op->stride),
		       create.key_size);
		make_value(b.v + i * value_bytes(), op->value + i);
	}
	ret = batch(op->cmd == UPDATE_BATCH ? BPF_MAP_UPDATE_BATCH : BPF_MAP_DELETE_BATCH, op, &b);
	answer(ret, (uint8_t *)&b.count, 4);
}

/* The whole map by next keys. */
void do_walk(void)
{
	static const struct op plain, first = { .mode = NONE };
	size_t mark, size = value_bytes();
	uint32_t most = create.max_entries * 2 + 16, n;
	uint8_t *k = key_area, *v = value_area;
	int ret = 0;

	for (n = 0; n < most && (n + 2) * size < AREA && (n + 2) * create.key_size < AREA; n++) {
		uint8_t *next = k + (size_t)n * create.key_size;

		ret = single(BPF_MAP_GET_NEXT_KEY, n ? &plain : &first, next - create.key_size, next);
		if (ret)
			break;
		memset(v + n * size, FILL, size);
		single(BPF_MAP_LOOKUP_ELEM, &plain, next, v + n * size);
	}
	put32((uint32_t)ret);
	mark = out_len;
	put32(0);
	put_pairs(k, v, n);
	*(uint32_t *)(void *)(out + mark) = (uint32_t)(out_len - mark - 4);
}

/* The whole map by batches of op->count, twice as many after ENOSPC: the contract of linux/bpf.h. */
void do_batch_walk(const struct op *op)
{
	static uint8_t in[4096], to[4096];
	struct op plain = { .flags = op->flags };
	size_t mark, size = value_bytes();
	uint32_t n = 0, step = op->count ? op->count : 1, turns = create.max_entries * 4 + 64;
	int ret = 0, more = 0;

	while (turns--) {
		struct batch b = { .in = more ? in : NULL,
				   .to = to,
				   .count = step,
				   .k = key_area + (size_t)n * create.key_size,
				   .v = value_area + n * size };

		if ((n + step) * size > AREA || (size_t)(n + step) * create.key_size > AREA)
			die("walk too long");
		ret = batch(op->cmd == DRAIN ? BPF_MAP_LOOKUP_AND_DELETE_BATCH : BPF_MAP_LOOKUP_BATCH,
			    &plain, &b);
		if (ret == -ENOSPC) {
			step *= 2;
			continue;
		}
		if (ret && ret != -ENOENT)
			break;
		n += b.count;
		if (ret)
			break;
		memcpy(in, to, sizeof(in));
		more = 1;
	}
	put32((uint32_t)ret);
	mark = out_len;
	put32(0);
	put_pairs(key_area, value_area, n);
	*(uint32_t *)(void *)(out + mark) = (uint32_t)(out_len - mark - 4);
}
