/*
 * driver: carries out sequences of map commands and says what came of each. The same program runs
 * on the kernel and under the shim; what it answers is compared byte by byte.
 *
 * stdin: frames of struct sequence, then BTF, keys and ops. stdout, for each: u32 bytes that
 * follow, u32 bpf(2) calls made, s32 MAP_CREATE's result, then for each op s32 result (0 or
 * -errno), u32 bytes, bytes.
 *
 * What may differ between two right implementations is made the same here: pairs of an unordered
 * map are sorted, of per-CPU values the first two CPUs are shown (the others must hold what was
 * written to them), objects are named by their place in the driver's own list.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runner.h"

enum { UNORDERED = 1, PERCPU = 2, PIN = 4, PIDFDS = 8, NEAR = 16 };
enum { BYTES, INNER_MAPS, PROGS, CGROUPS, EVENTS, KINDS };
enum {
	NOP,
	LOOKUP,
	UPDATE,
	DELETE,
	NEXT,
	TAKE,
	READ_BATCH,
	TAKE_BATCH,
	UPDATE_BATCH,
	DELETE_BATCH,
	FREEZE,
	INFO,
	WALK,
	BATCH_WALK,
	DRAIN,
	RUN,
	MOVE
};
enum { GOOD, NONE, BAD }; /* pointers */
enum { JUNK_TAIL = 16, BAD_FD = 32, OTHER_FD = 64 };
enum { TASKS = 4 /* keys of PIDFDS that name processes */ };
enum { AREA = 8 << 20, SHOWN_CPUS = 2, MAX_AUX = 8, FILL = 0xa5 };

struct sequence {
	uint32_t nops, nkeys, btf_len, style, values;
	uint32_t cpu; /* PIN: where it begins */
	uint8_t attr[128];
};

struct op {
	uint8_t cmd;
	uint8_t mode; /* key pointer, value pointer << 2, JUNK_TAIL, ... */
	uint8_t in; /* of a batch: pointer to the position; RUN: what the program does */
	uint8_t stride; /* of the keys of a batch */
	uint32_t key; /* index */
	uint64_t flags;
	uint32_t value; /* seed, or index of an object */
	uint32_t count;
};

static union bpf_attr create;
static struct sequence seq;
static uint8_t *keys, *key_area, *value_area, *out;
static size_t out_len;
static uint32_t calls, ncpus;
static int runner; /* a program on the sequence's map; 0: not loaded yet */
static int fd, aux[KINDS][MAX_AUX], aux_id[KINDS][MAX_AUX], made[KINDS], other;

static void die(const char *what)
{
	fprintf(stderr, "driver: %s: %s\n", what, strerror(errno));
	exit(3);
}

static int patient; /* the kernel's side */

/* The kernel's task storages ask to try an update again while they still free what a thread had
 * before. Nobody else is asked twice, and the shim never. */
static int bpf(int cmd, void *attr, uint32_t size)
{
	int tries = 0;
	long ret;

	do
		ret = syscall(SYS_bpf, cmd, attr, size);
	while (ret < 0 && errno == EAGAIN && patient && cmd == BPF_MAP_UPDATE_ELEM &&
	       create.map_type == BPF_MAP_TYPE_TASK_STORAGE && ++tries < 1000);
	calls++;
	return ret < 0 ? -errno : (int)ret;
}

/* size bytes that end where an unmapped page begins: who reads or writes more gets EFAULT. */
static uint8_t *area(void)
{
	uint8_t *at = mmap(NULL, AREA + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			   0);

	if (at == MAP_FAILED || munmap(at + AREA, 4096))
		die("area");
	return at;
}

static void get(void *to, size_t size)
{
	for (uint8_t *p = to; size;) {
		ssize_t n = read(0, p, size);

		if (n <= 0)
			exit(n < 0 ? 3 : 0);
		p += n;
		size -= (size_t)n;
	}
}

static void put(const void *from, size_t size)
{
	if (out_len + size > AREA)
		die("answer too long");
	memcpy(out + out_len, from, size);
	out_len += size;
}

static void put32(uint32_t v)
{
	put(&v, 4);
}

/* ---- values ---- */

static size_t value_bytes(void)
{
	if (seq.values != BYTES)
		return 4;
	return seq.style & PERCPU ? (size_t)(create.value_size + 7) / 8 * 8 * ncpus : create.value_size;
}

static void make_one(uint8_t *at, size_t size, uint64_t seed)
{
	uint64_t w = seed * 0x9e3779b97f4a7c15ULL + 1;

	for (size_t i = 0; i < size; i++, w = w * 6364136223846793005ULL + 1442695040888963407ULL)
		at[i] = seed ? (uint8_t)(w >> 56) : 0;
}

/* CPU n gets what CPU n % SHOWN_CPUS gets. */
static void make_value(uint8_t *at, uint32_t seed)
{
	size_t each = (size_t)(create.value_size + 7) / 8 * 8;

	if (seq.values != BYTES) {
		memcpy(at, &aux[seq.values][seed % MAX_AUX], 4);
		return;
	}
	if (!(seq.style & PERCPU)) {
		make_one(at, create.value_size, seed);
		return;
	}
	for (uint32_t cpu = 0; cpu < ncpus; cpu++)
		make_one(at + cpu * each, each, seed * 2ULL + cpu % SHOWN_CPUS);
}

static size_t shown_bytes(void)
{
	if (seq.values != BYTES)
		return 4;
	return seq.style & PERCPU ? (size_t)(create.value_size + 7) / 8 * 8 * SHOWN_CPUS
				  : create.value_size;
}

/* What is told of a value; its length is shown_bytes(). */
static void show_value(uint8_t *to, const uint8_t *at)
{
	size_t each = (size_t)(create.value_size + 7) / 8 * 8;

	memcpy(to, at, shown_bytes());
	if (seq.values != BYTES) {
		uint32_t id, index = 1000;

		memcpy(&id, at, 4);
		for (uint32_t i = 0; i < MAX_AUX; i++)
			if (aux_id[seq.values][i] && (uint32_t)aux_id[seq.values][i] == id)
				index = i;
		memcpy(to, &index, 4);
	} else if (seq.style & PERCPU && !runner) { /* a program writes one CPU's value */
		for (uint32_t cpu = SHOWN_CPUS; cpu < ncpus; cpu++)
			if (memcmp(at + cpu * each, at + cpu % SHOWN_CPUS * each, each))
				memset(to, 0xee, shown_bytes()); /* a CPU lost its value */
	}
}

/* ---- objects that values name ---- */

static int new_map(uint32_t type, uint32_t key, uint32_t value, uint32_t entries)
{
	union bpf_attr a = {
		.map_type = type, .key_size = key, .value_size = value, .max_entries = entries
	};

	return bpf(BPF_MAP_CREATE, &a, 72);
}

static int new_prog(uint32_t type)
{
	struct bpf_insn code[] = { { .code = 0xb7 }, { .code = 0x95 } };
	union bpf_attr a = {
		.prog_type = type, .insn_cnt = 2, .insns = (uintptr_t)code, .license = (uintptr_t) "GPL"
	};

	return bpf(BPF_PROG_LOAD, &a, 72);
}

static int new_event(void)
{
	struct perf_event_attr attr = { .type = PERF_TYPE_SOFTWARE,
					.config = PERF_COUNT_SW_BPF_OUTPUT,
					.size = sizeof(attr),
					.sample_type = PERF_SAMPLE_RAW,
					.sample_period = 1 };

	return (int)syscall(SYS_perf_event_open, &attr, -1, 0, -1, PERF_FLAG_FD_CLOEXEC);
}

static uint32_t id_of(int of)
{
	uint32_t info[64] = { 0 };
	union bpf_attr a = {
		.info = { .bpf_fd = (uint32_t)of, .info_len = 80, .info = (uintptr_t)info }
	};

	return bpf(BPF_OBJ_GET_INFO_BY_FD, &a, 16) ? 0 : info[1];
}

/* Five that may go, then three that may not. Index 0 is what inner maps must be like. */
static void make_aux(uint32_t kind)
{
	int *to = aux[kind];

	if (kind == BYTES || made[kind])
		return;
	made[kind] = 1;
	for (int i = 0; i < 5; i++)
		to[i] = kind == INNER_MAPS ? new_map(BPF_MAP_TYPE_HASH, 4, 8, 4)
			: kind == PROGS	   ? new_prog(BPF_PROG_TYPE_SOCKET_FILTER)
			: kind == EVENTS   ? new_event()
					   : dup(other);
	to[5] = kind == INNER_MAPS ? new_map(BPF_MAP_TYPE_HASH, 4, 16, 4) : new_prog(BPF_PROG_TYPE_XDP);
	to[6] = kind == PROGS ? new_map(BPF_MAP_TYPE_HASH, 4, 8, 4)
			      : new_prog(BPF_PROG_TYPE_SOCKET_FILTER);
	to[7] = -1;
	for (int i = 0; i < MAX_AUX && kind != CGROUPS && kind != EVENTS; i++)
		aux_id[kind][i] = to[i] < 0 ? 0 : (int)id_of(to[i]);
}

/* ---- single elements ---- */

static uint64_t pointer(uint8_t *good, int mode)
{
	return mode == GOOD ? (uintptr_t)good : mode == NONE ? 0 : 0x1000;
}

static uint8_t *key_at(uint32_t index)
{
	return keys + (size_t)(index % seq.nkeys) * create.key_size;
}

static uint32_t which_fd(const struct op *op)
{
	return (uint32_t)(op->mode & BAD_FD ? 999999 : op->mode & OTHER_FD ? other : fd);
}

static int single(int cmd, const struct op *op, uint8_t *key, uint8_t *value)
{
	union bpf_attr a;

	memset(&a, 0, sizeof(a));
	a.map_fd = which_fd(op);
	if (create.key_size)
		a.key = pointer(key, op->mode & 3);
	else /* then it must be NULL */
		a.key = op->mode & 3 ? 0x1000 : 0;
	if (cmd != BPF_MAP_DELETE_ELEM)
		a.value = pointer(value, op->mode >> 2 & 3);
	if (cmd != BPF_MAP_DELETE_ELEM && cmd != BPF_MAP_GET_NEXT_KEY)
		a.flags = op->flags;
	if (op->mode & JUNK_TAIL)
		((uint8_t *)&a)[100] = 1;
	return bpf(cmd, &a, 120);
}

static uint8_t *key_buffer(size_t size)
{
	return key_area + AREA - size;
}

static uint8_t *value_buffer(size_t size)
{
	return value_area + AREA - size;
}

/* Of one element: at the end of mapped memory, or in the program's own, as loaders have it. */
static uint8_t *one_key(void)
{
	static uint8_t near[4096];

	return seq.style & NEAR ? near : key_buffer(create.key_size);
}

static uint8_t *one_value(size_t size)
{
	static uint8_t near[1 << 16];

	return seq.style & NEAR && size <= sizeof(near) ? near : value_buffer(size);
}

static int touched(const uint8_t *at, size_t size)
{
	for (size_t i = 0; i < size; i++)
		if (at[i] != FILL)
			return 1;
	return 0;
}

static void answer(int ret, const uint8_t *bytes, size_t size)
{
	put32((uint32_t)ret);
	put32((uint32_t)size);
	put(bytes, size);
}

static void do_read(const struct op *op)
{
	size_t size = value_bytes();
	uint8_t *value = one_value(size), *key = one_key();
	int ret;

	memset(value, FILL, size);
	if (create.map_type == BPF_MAP_TYPE_BLOOM_FILTER)
		make_value(value, op->value);
	memcpy(key, key_at(op->key), create.key_size);
	ret = single(op->cmd == TAKE ? BPF_MAP_LOOKUP_AND_DELETE_ELEM : BPF_MAP_LOOKUP_ELEM, op, key,
		     value);
	if (ret && !touched(value, size)) {
		answer(ret, NULL, 0);
		return;
	}
	put32((uint32_t)ret);
	put32((uint32_t)shown_bytes());
	show_value(out + out_len, value);
	out_len += shown_bytes();
}

static void do_write(const struct op *op)
{
	size_t size = value_bytes();
	uint8_t *value = one_value(size), *key = one_key();

	memcpy(key, key_at(op->key), create.key_size);
	make_value(value, op->value);
	answer(single(op->cmd == UPDATE ? BPF_MAP_UPDATE_ELEM : BPF_MAP_DELETE_ELEM, op, key, value),
	       NULL, 0);
}

static int exists(uint8_t *key)
{
	static const struct op plain;
	size_t size = value_bytes();

	return !single(BPF_MAP_LOOKUP_ELEM, &plain, key, one_value(size));
}

/* Of an unordered map: whether there is a next key, if that does not depend on the order, and
 * whether what came is a key of the map. */
static void do_next(const struct op *op)
{
	uint8_t *key = one_key(), *next = one_value(create.key_size), ok;
	uint8_t copy[4096];
	int ret, known = 0;

	memcpy(key, key_at(op->key), create.key_size);
	if (seq.style & UNORDERED && (op->mode & 3) == GOOD)
		known = exists(key);
	memset(next, FILL, create.key_size);
	ret = single(BPF_MAP_GET_NEXT_KEY, op, key, next);
	if (!(seq.style & UNORDERED)) {
		answer(ret, next, touched(next, create.key_size) ? create.key_size : 0);
		return;
	}
	memcpy(copy, next, create.key_size);
	ok = ret || exists(copy);
	if (known && ret == -ENOENT) /* it is the last one, here */
		ret = op->mode >> 2 & 3 ? -EFAULT : 0;
	answer(ret, &ok, 1);
}

/* ---- many elements ---- */

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
static void do_read_batch(const struct op *op)
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

static void do_write_batch(const struct op *op)
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
static void do_walk(void)
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
static void do_batch_walk(const struct op *op)
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

/* ---- the map itself ---- */

static void do_freeze(const struct op *op)
{
	union bpf_attr a;

	memset(&a, 0, sizeof(a));
	a.map_fd = which_fd(op);
	answer(bpf(BPF_MAP_FREEZE, &a, 4), NULL, 0);
}

static void do_info(const struct op *op)
{
	struct bpf_map_info info;
	union bpf_attr a;
	int ret;

	memset(&info, 0, sizeof(info));
	memset(&a, 0, sizeof(a));
	a.info.bpf_fd = which_fd(op);
	a.info.info_len = 80;
	a.info.info = (uintptr_t)&info;
	ret = bpf(BPF_OBJ_GET_INFO_BY_FD, &a, 16);
	info.id = info.id != 0;
	info.btf_id = info.btf_id != 0;
	answer(ret, (uint8_t *)&info, 80);
}

/* ---- a program's own lookups, updates and deletes ---- */

static void do_run(const struct op *op)
{
	struct run_ctx ctx = { .what = op->in, .flags = op->flags };
	union bpf_attr a;
	int ret;

	if (!runner)
		runner = bpf(BPF_PROG_LOAD, runner_attr(fd), 72);
	if (create.key_size > RUN_KEY || create.value_size > RUN_VALUE)
		die("a key or value that the program has no room for");
	memcpy(ctx.key, key_at(op->key), create.key_size);
	make_one(ctx.value, create.value_size, op->value);
	memset(&a, 0, sizeof(a));
	a.test.prog_fd = (uint32_t)runner;
	a.test.ctx_in = (uintptr_t)&ctx;
	a.test.ctx_size_in = sizeof(ctx);
	ret = runner < 0 ? runner : bpf(BPF_PROG_TEST_RUN, &a, 80);
	answer(ret, (uint8_t *)&a.test.retval, 4);
}

static cpu_set_t all_cpus;

/* To the nth of the CPUs that there are for us. */
static void move(uint32_t n)
{
	cpu_set_t one;
	int cpu = -1;

	n %= (uint32_t)CPU_COUNT(&all_cpus);
	do
		cpu++;
	while (!CPU_ISSET(cpu, &all_cpus) || n--);
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	if (sched_setaffinity(0, sizeof(one), &one))
		die("a CPU");
}

static void perform(const struct op *op)
{
	switch (op->cmd) {
	case LOOKUP:
	case TAKE: do_read(op); break;
	case UPDATE:
	case DELETE: do_write(op); break;
	case NEXT: do_next(op); break;
	case READ_BATCH:
	case TAKE_BATCH: do_read_batch(op); break;
	case UPDATE_BATCH:
	case DELETE_BATCH: do_write_batch(op); break;
	case FREEZE: do_freeze(op); break;
	case INFO: do_info(op); break;
	case WALK: do_walk(); break;
	case BATCH_WALK:
	case DRAIN: do_batch_walk(op); break;
	case RUN: do_run(op); break;
	case MOVE:
		move(op->key);
		answer(0, NULL, 0);
		break;
	default: answer(0, NULL, 0);
	}
}

static int create_map(uint8_t *btf)
{
	int ret, btf_fd = -1;

	memcpy(&create, seq.attr, sizeof(create) < 128 ? sizeof(create) : 128);
	make_aux(seq.values);
	if (seq.values == INNER_MAPS && !create.inner_map_fd)
		create.inner_map_fd = (uint32_t)aux[INNER_MAPS][0];
	if (seq.btf_len) {
		union bpf_attr a;

		memset(&a, 0, sizeof(a));
		a.btf = (uintptr_t)btf;
		a.btf_size = seq.btf_len;
		btf_fd = bpf(BPF_BTF_LOAD, &a, 28);
		if (btf_fd < 0)
			return btf_fd;
		create.btf_fd = (uint32_t)btf_fd;
	}
	ret = bpf(BPF_MAP_CREATE, &create, sizeof(create) < 128 ? sizeof(create) : 128);
	if (btf_fd >= 0)
		close(btf_fd);
	return ret;
}

/* Processes that wait, in the place of the first keys: a descriptor of each. */
static void name_tasks(void)
{
	static int pidfd[TASKS];

	for (uint32_t i = 0; i < TASKS && i < seq.nkeys; i++) {
		if (!pidfd[i]) {
			pid_t pid = fork();

			if (!pid) {
				close_range(0, ~0U, 0);
				prctl(PR_SET_PDEATHSIG, SIGKILL);
				pause();
				_exit(0);
			}
			pidfd[i] = (int)syscall(SYS_pidfd_open, pid, 0);
			if (pidfd[i] < 0)
				die("pidfd_open");
		}
		memcpy(keys + i * sizeof(int), &pidfd[i], sizeof(int));
	}
}

static uint32_t possible_cpus(void)
{
	FILE *f = fopen("/sys/devices/system/cpu/possible", "r");
	unsigned int lo = 0, hi = 0;

	if (!f || fscanf(f, "%u-%u", &lo, &hi) < 1)
		die("possible CPUs");
	fclose(f);
	return (hi > lo ? hi : lo) + 1;
}

int main(int argc, char **argv)
{
	struct op *ops = NULL;
	uint8_t *btf = NULL;
	int pipe_fd[2];

	patient = argc > 1 && !strcmp(argv[1], "patient");
	if (pipe(pipe_fd))
		die("pipe");
	other = pipe_fd[0];
	new_map(BPF_MAP_TYPE_ARRAY, 4, 4, 1); /* a session has its own number of CPUs */
	ncpus = possible_cpus();
	if (sched_getaffinity(0, sizeof(all_cpus), &all_cpus))
		die("affinity");
	key_area = area();
	value_area = area();
	out = area();
	for (;;) {
		uint32_t head[3];

		get(&seq, sizeof(seq));
		memcpy(&create, seq.attr, sizeof(seq.attr));
		btf = realloc(btf, seq.btf_len + 1);
		keys = realloc(keys, (size_t)seq.nkeys * create.key_size + 1);
		ops = realloc(ops, seq.nops * sizeof(*ops) + 1);
		get(btf, seq.btf_len);
		get(keys, (size_t)seq.nkeys * create.key_size);
		get(ops, seq.nops * sizeof(*ops));
		if (seq.style & PIDFDS)
			name_tasks();
		calls = 0;
		out_len = sizeof(head);
		if (seq.style & PIN)
			move(seq.cpu);
		fd = create_map(btf);
		for (uint32_t i = 0; fd >= 0 && i < seq.nops; i++)
			perform(&ops[i]);
		head[0] = (uint32_t)out_len - 4;
		head[1] = calls;
		head[2] = (uint32_t)(fd < 0 ? fd : 0);
		memcpy(out, head, sizeof(head));
		if (fd >= 0)
			close(fd);
		if (runner > 0)
			close(runner);
		runner = 0;
		if (seq.style & PIN)
			sched_setaffinity(0, sizeof(all_cpus), &all_cpus);
		for (size_t at = 0; at < out_len;) {
			ssize_t n = write(1, out + at, out_len - at);

			if (n <= 0)
				exit(3);
			at += (size_t)n;
		}
	}
}
