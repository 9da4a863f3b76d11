/*
 * hostile SEED ROUNDS: maps whose memory a hostile peer writes, under AddressSanitizer.
 *
 * A map lies alone between terabytes that nobody may touch; keys, values and room for batches are
 * blocks of their exact size. In each round a map is made, used, garbled (heads of buckets, next
 * links, positions of rings, counters, the header) and used again, with the descriptor that was made
 * before and with one that the garbled header gives, if it gives one. What the runtime answers does
 * not matter: it must stay inside, and come back.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime.h"

enum { VCPUS = 2, OPS = 40, MOST = 64 /* elements of a batch */, PERF = 1 << 16, PATIENCE = 60 };
#define APART (1ULL << 41)

static const struct {
	u32 type, key, value, entries, flags;
} shapes[] = {
	{ 1, 4, 8, 16, 0 },
	{ 1, 13, 100, 7, 0 },
	{ 1, 4, 8, 64, BPF_F_NO_PREALLOC },
	{ 5, 4, 8, 16, 0 },
	{ 5, 8, 5, 9, 1 },
	{ 9, 4, 8, 16, 0 },
	{ 10, 4, 12, 8, 0 },
	{ 2, 4, 8, 16, 0 },
	{ 2, 4, 13, 5, BPF_F_MMAPABLE },
	{ 6, 4, 8, 16, 0 },
	{ 11, 8, 8, 16, 1 },
	{ 11, 20, 40, 8, 1 },
	{ 22, 0, 8, 5, 0 },
	{ 23, 0, 13, 3, 0 },
	{ 30, 0, 8, 32, 0 },
	{ 27, 0, 0, 4096, 0 },
	{ 31, 0, 0, 4096, 0 },
	{ 7, 4, 64, 8, 0 },
	{ 4, 4, 4, 4, 0 },
	{ 3, 4, 4, 4, 0 },
	{ 12, 4, 4, 4, 0 },
	{ 13, 4, 4, 4, 0 },
	{ 8, 4, 4, 4, 0 },
	{ 9, 4, 8, 300, 0 },
	{ 9, 4, 8, 24, BPF_F_NO_COMMON_LRU },
	{ 10, 8, 5, 7, BPF_F_NO_COMMON_LRU },
};
enum { SHAPES = sizeof(shapes) / sizeof(shapes[0]) };

static u64 state, accepted, answered;
static struct shim_ctl *ctl;
static u8 *perf;
static u32 round_now, shape_now;

static u64 draw(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static void late(int signal)
{
	(void)signal;
	dprintf(2, "hostile: round %u, type %u: it does not come back\n", round_now,
		shapes[shape_now].type);
	abort();
}

/* size bytes, pages, in the middle of nothing. */
static u8 *alone(u64 size)
{
	u8 *at = mmap(NULL, 2 * APART + size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		      -1, 0);

	if (at == MAP_FAILED || mmap(at + APART, size, PROT_READ | PROT_WRITE,
				     MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		exit(2);
	return at + APART;
}

static void drop(u8 *at, u64 size)
{
	munmap(at - APART, 2 * APART + size);
}

static void fill(void *at, u64 size)
{
	for (u64 i = 0; i < size; i++)
		((u8 *)at)[i] = (u8)(draw() >> 32);
}

/* ---- what is done to a map ---- */

static void ring_ops(const struct shim_map_desc *d, struct shim_run *run)
{
	u8 data[64];
	void *sample;

	fill(data, sizeof(data));
	for (u32 i = 0; i < 4; i++)
		run->scratch[i] = 0;
	shim_ringbuf_avail(d);
	shim_ringbuf_ready(d);
	ringbuf_query(d, draw() % 5);
	ringbuf_output(d, data, draw() % sizeof(data), 0, run);
	sample = ringbuf_reserve(d, draw() % 256, run);
	if (sample) {
		memset(sample, 1, 8);
		if (draw() & 1) /* the program has written over its header */
			fill((u8 *)sample - 8, 8);
		ringbuf_commit(sample, draw() & 3, draw() & 1, run);
	}
}

static void perf_ops(const struct shim_map_desc *d, struct shim_run *run)
{
	const struct shim_perf_slot *slot = desc_at(d, draw() % d->max_entries * d->stride);
	u8 data[200];

	fill(data, sizeof(data));
	perf_ring_output(slot, data, draw() % sizeof(data), run);
}

static void key_of(void *key, u32 size, u32 type)
{
	memset(key, 0, size);
	if (size)
		*(u8 *)key = (u8)(draw() % (type == 11 ? 8 * (size - 4) + 2 : 24));
	if (type == 11)
		for (u32 i = 4; i < size; i++)
			((u8 *)key)[i] = (u8)(draw() & 3) * 64;
}

static void batch(const struct shim_map_desc *d, u64 size, struct shim_run *run)
{
	u32 count = (u32)(draw() % MOST), position = shim_map_position_size(d);
	u8 *keys = malloc((u64)count * d->key_size + 1), *values = malloc(count * size + 1);
	u8 *in = malloc(position + 1), *to = malloc(position + 1);

	fill(in, position);
	if (draw() & 1)
		memset(in, 0, position);
	shim_map_sys_lookup_batch(d, draw() & 1 ? in : 0, to, keys, values, &count, 0, draw() & 1, run);
	free(keys);
	free(values);
	free(in);
	free(to);
}

static void use(const struct shim_map_desc *d, struct shim_run *run)
{
	bool percpu = d->type == 5 || d->type == 6 || d->type == 10;
	bool objects = d->type == 3 || d->type == 4 || d->type == 12 || d->type == 13 || d->type == 8;
	u64 size = percpu ? round_up(d->value_size, 8) * d->nr_vcpus : objects ? 16 : d->value_size;
	u8 *key = malloc(d->key_size + 1), *next = malloc(d->key_size + 1), *value = malloc(size + 1);
	u8 *found;

	if (!key || !next || !value)
		goto out; /* a header may name gigabytes */
	for (u32 i = 0; i < OPS; i++) {
		key_of(key, d->key_size, d->type);
		run->vcpu = draw() & 1;
		switch (draw() % 14) {
		case 0:
		case 1:
		case 2:
			fill(value, size);
			answered += !shim_map_sys_update(d, key, value, draw() % 3, run);
			break;
		case 3: answered += !shim_map_sys_lookup(d, key, value, 0, run); break;
		case 4: shim_map_sys_delete(d, key, run); break;
		case 5: shim_map_sys_lookup_and_delete(d, key, value, 0, run); break;
		case 6: shim_map_sys_next_key(d, draw() & 1 ? key : 0, next, run); break;
		case 7:
			found = shim_map_lookup(d, key, run);
			if (found && d->type != 12 && d->type != 13 && d->value_size) {
				found[0]++;
				found[d->value_size - 1]++;
			}
			break;
		case 8: shim_map_update(d, key, value, 0, run); break;
		case 9: shim_map_delete(d, key, run); break;
		case 10: shim_map_push(d, value, draw() & 2, run); break;
		case 11: draw() & 1 ? shim_map_pop(d, value, run) : shim_map_peek(d, value, run); break;
		case 12: batch(d, size, run); break;
		default:
			if (d->type == 27)
				ring_ops(d, run);
			if (d->type == 4)
				perf_ops(d, run);
		}
	}
out:
	free(key);
	free(next);
	free(value);
}

/* ---- rounds ---- */

static void garble(u8 *at, u64 size)
{
	static const u32 likely[] = { 0, 1, 2, 15, 16, 17, 0x7fffffff, 0x80000000, 0xffffffff };
	u32 times = 1 + draw() % 24;

	while (times--) {
		u64 where = draw() & 3
				    ? draw() % (size - SHIM_PAGE < 4096 ? size - SHIM_PAGE + 4 : 4096)
				    : draw() % (size - 4);
		u32 what = draw() & 1 ? likely[draw() % 9] : (u32)draw();

		if (where > size - 4)
			where = size - 4;
		if (draw() & 1)
			where &= ~3ULL;
		if (draw() % 4 == 0)
			at[where] ^= (u8)(1 << (draw() & 7));
		else
			memcpy(at + where, &what, 4);
	}
}

static void one_round(void)
{
	struct shim_run run = { .ctl = (u64)ctl, .perf = (u64)perf, .perf_size = PERF };
	struct shim_map_hdr hdr = { .magic = SHIM_MAP_MAGIC,
				    .version = SHIM_MAP_VERSION,
				    .nr_vcpus = VCPUS };
	struct shim_map_desc before, after;
	u8 *base;

	shape_now = (u32)(draw() % SHAPES);
	hdr.type = shapes[shape_now].type;
	hdr.key_size = shapes[shape_now].key;
	hdr.value_size = shapes[shape_now].value;
	hdr.max_entries = shapes[shape_now].entries;
	hdr.map_flags = shapes[shape_now].flags;
	if (shim_map_layout(&hdr)) {
		printf("type %u: no layout\n", hdr.type);
		exit(2);
	}
	base = alone(hdr.file_size);
	if (shim_map_format(base, &hdr) || shim_map_desc_init(&before, base, hdr.file_size))
		exit(2);
	run.owner = 1u << SHIM_OWNER_SLOT_SHIFT | 1u << SHIM_OWNER_GEN_SHIFT | 1;
	before.ctl = (u64)ctl;
	use(&before, &run);
	for (u32 i = 0; i < 3; i++) {
		garble(base, hdr.file_size);
		if (hdr.type == 4)
			garble(perf, PERF);
		alarm(PATIENCE);
		use(&before, &run);
		if (!shim_map_desc_init(&after, base, hdr.file_size)) {
			accepted++;
			after.ctl = (u64)ctl;
			use(&after, &run);
		}
		/* and headers alone: most of what is written above misses them */
		garble(base + hdr.file_size - SHIM_PAGE, SHIM_PAGE);
	}
	drop(base, hdr.file_size);
}

int main(int argc, char **argv)
{
	u32 rounds = argc > 2 ? (u32)strtoul(argv[2], NULL, 0) : 1000;

	state = (argc > 1 ? strtoull(argv[1], NULL, 0) : 1) * 0x9e3779b97f4a7c15ULL | 1;
	signal(SIGALRM, late);
	ctl = (struct shim_ctl *)alone(round_up(sizeof(*ctl), SHIM_PAGE));
	perf = alone(PERF);
	ctl->nr_vcpus = VCPUS;
	for (u32 i = 0; i < SHIM_MAX_SLOTS; i++)
		ctl->slot[i].gen = 1;
	ctl->slot[1].pid = (u32)getpid();
	ctl->slot[1].state = SHIM_SLOT_LIVE;
	for (round_now = 0; round_now < rounds; round_now++)
		one_round();
	printf("rounds %u headers accepted %llu answers %llu\n", rounds, accepted, answered);
	return 0;
}
