/*
 * stepped NAME: one change of a map, carried out by a child an instruction at a time. After each
 * instruction the map is copied, the child declared dead in the copy, and the copy must be the map
 * as it was before the change or as it is after it, take every further change, and have lost no
 * element. Prints how many instructions there were.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/bpf.h>

#include "shim_runtime.h"

enum { HASH = 1, PERCPU_HASH = 5, LRU_HASH = 9, LRU_PERCPU_HASH = 10, LPM_TRIE = 11 };
enum { OWN = BPF_F_NO_COMMON_LRU };
enum { ENTRIES = 6, KEY = 8, VALUE = 16, VCPUS = 2, MANY = 5 * ENTRIES };
enum { NOT_THERE = -ENOENT };

struct map {
	struct shim_ctl *ctl;
	u8 *base;
	u64 size;
	struct shim_map_desc desc;
	struct shim_run run;
};

static void *shared(u64 size)
{
	void *at = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED)
		abort();
	return at;
}

#define check(cond) \
	do { \
		if (!(cond)) { \
			fprintf(stderr, "step %ld, line %d: %s\n", step, __LINE__, #cond); \
			exit(1); \
		} \
	} while (0)
static long step;

static void describe(struct map *m)
{
	check(!shim_map_desc_init(&m->desc, m->base, m->size));
	m->desc.ctl = (u64)m->ctl;
	m->run = (struct shim_run){ .ctl = (u64)m->ctl, .vcpu = 0 };
}

static void make(struct map *m, u32 type, u32 flags, u32 value_size)
{
	struct shim_map_hdr hdr = { .magic = SHIM_MAP_MAGIC,
				    .version = SHIM_MAP_VERSION,
				    .type = type,
				    .key_size = KEY,
				    .value_size = value_size ? value_size : VALUE,
				    .max_entries = ENTRIES,
				    .map_flags = flags,
				    .nr_vcpus = VCPUS };

	check(!shim_map_layout(&hdr));
	m->size = hdr.file_size;
	m->base = shared(m->size);
	m->ctl = shared(sizeof(*m->ctl));
	m->ctl->nr_vcpus = VCPUS;
	for (u32 i = 0; i < SHIM_MAX_SLOTS; i++)
		m->ctl->slot[i].gen = 1;
	check(!shim_map_format(m->base, &hdr));
	describe(m);
}

/* Keys: of a trie, 0 is an address in the prefix 1, 2 one beside it, the rest far apart. */
static void key_of(const struct map *m, u32 n, u8 *key)
{
	static const u8 prefixes[4][5] = {
		{ 32, 10, 1, 1, 1 }, { 8, 10, 0, 0, 0 }, { 32, 10, 1, 1, 2 }, { 24, 10, 1, 1, 0 }
	};
	u32 len = 32;

	memset(key, 0, KEY);
	if (m->desc.type != LPM_TRIE) {
		memcpy(key, &n, 4);
		return;
	}
	key[4] = (u8)(100 + n * 37);
	key[5] = (u8)n;
	if (n < 4) {
		len = prefixes[n][0];
		memcpy(key + 4, prefixes[n] + 1, 4);
	}
	memcpy(key, &len, 4);
}

static long put(struct map *m, u32 n, u32 content, u64 flags)
{
	u8 key[KEY];
	u32 value[VALUE * VCPUS / 4];

	key_of(m, n, key);
	for (u32 i = 0; i < VALUE * VCPUS / 4; i++)
		value[i] = content;
	return shim_map_sys_update(&m->desc, key, value, flags, &m->run);
}

static long cut(struct map *m, u32 n)
{
	u8 key[KEY];

	key_of(m, n, key);
	return shim_map_sys_delete(&m->desc, key, &m->run);
}

/* What the map holds: each key's content, or NOT_THERE, found by walking. -1: torn or doubled. */
struct contents {
	long at[MANY];
	u32 count;
};

static long content(struct map *m, const u8 *key)
{
	u32 value[VALUE * VCPUS / 4];
	long err = shim_map_sys_lookup(&m->desc, key, value, 0, &m->run);

	return err ? err : (long)value[0];
}

static void read_all(struct map *m, struct contents *c)
{
	u8 at[KEY], next[KEY], key[KEY];
	bool first = true;

	for (u32 n = 0; n < MANY; n++)
		c->at[n] = NOT_THERE;
	for (c->count = 0; c->count < MANY; c->count++, first = false) {
		u32 n = 0;

		if (shim_map_sys_next_key(&m->desc, first ? 0 : at, next, &m->run))
			break;
		memcpy(at, next, KEY);
		for (; n < MANY; n++) {
			key_of(m, n, key);
			if (!memcmp(key, next, KEY))
				break;
		}
		check(n < MANY && c->at[n] == NOT_THERE);
		c->at[n] = content(m, next);
	}
}

static bool same(const struct contents *a, const struct contents *b)
{
	return a->count == b->count && !memcmp(a->at, b->at, sizeof(a->at));
}

/* The changes. Keys 0..3 are there before, with content 1; LRU: all are, and 0 and 1 were looked up. */
static void insert(struct map *m)
{
	put(m, 4, 2, 1);
}

static void insert_first(struct map *m)
{
	put(m, 0, 2, 1);
}

static void insert_more(struct map *m)
{
	put(m, ENTRIES, 2, 1);
}

static void replace(struct map *m)
{
	put(m, 1, 2, 0);
}

/* So often that what is noted must be brought to the lists (each third), and once more from there. */
static void replace_all(struct map *m)
{
	for (u32 n = 0; n < ENTRIES + 1; n++)
		put(m, n & 3, 2, 0);
}

static void delete (struct map *m)
{
	cut(m, 0);
}

/* Each element that a full map has free is another bucket's. */
static void exchange(struct map *m)
{
	for (u32 n = 0; n < ENTRIES; n++) {
		cut(m, n);
		put(m, ENTRIES + n, 2, 1);
	}
}

static void delete_all(struct map *m)
{
	u8 keys[ENTRIES * KEY], values[ENTRIES * VALUE * VCPUS];
	u32 count = ENTRIES, at;

	shim_map_sys_lookup_batch(&m->desc, 0, &at, keys, values, &count, 0, 1, &m->run);
}

static void lookup(struct map *m)
{
	u8 key[KEY];

	key_of(m, 2, key);
	shim_map_lookup(&m->desc, key, &m->run);
}

/* many: a change of several elements, each whole for itself. value: bytes, 0: VALUE. cut: so many keys, the last
 * of them 0, are gone again before. */
static const struct change {
	const char *name;
	u32 type, flags, filled;
	void (*run)(struct map *m);
	bool many;
	u32 value, cut;
} changes[] = {
	{ "hash-insert", HASH, 0, 4, insert, false, 0, 0 },
	{ "hash-insert-grow", HASH, 1, 0, insert, false, 0, 0 },
	{ "hash-replace", HASH, 0, 4, replace, true, 0, 0 },
	{ "hash-delete", HASH, 0, 4, delete, false, 0, 0 },
	{ "hash-insert-spare", HASH, 0, 4, insert_first, false, 0, 1 },
	{ "hash-insert-gather", HASH, 0, ENTRIES, insert_more, false, 0, 2 },
	{ "hash-insert-full", HASH, 0, ENTRIES, insert_more, false, 0, 0 },
	{ "hash-exchange", HASH, 0, ENTRIES, exchange, true, 0, 0 },
	{ "hash-take-all", HASH, 0, 4, delete_all, true, 0, 0 },
	{ "percpu-hash-insert", PERCPU_HASH, 0, 4, insert, false, 0, 0 },
	{ "percpu-hash-insert-spare", PERCPU_HASH, 0, 4, insert_first, false, 0, 1 },
	{ "percpu-hash-delete", PERCPU_HASH, 0, 4, delete, false, 0, 0 },
	{ "lru-insert", LRU_HASH, 0, 4, insert, false, 0, 0 },
	{ "lru-evict", LRU_HASH, 0, ENTRIES, insert_more, true, 0, 0 },
	{ "lru-replace", LRU_HASH, 0, ENTRIES, replace, true, 0, 0 },
	{ "lru-lookup", LRU_HASH, 0, ENTRIES, lookup, false, 0, 0 },
	{ "lru-delete", LRU_HASH, 0, ENTRIES, delete, false, 0, 0 },
	{ "lru-replace-room", LRU_HASH, 0, 4, replace, false, 0, 0 },
	{ "lru-own-insert", LRU_HASH, OWN, 2, insert, false, 0, 0 },
	{ "lru-own-evict", LRU_HASH, OWN, 3, insert_more, true, 0, 0 },
	{ "lru-own-replace", LRU_HASH, OWN, 3, replace, true, 0, 0 },
	{ "lru-own-delete", LRU_HASH, OWN, 3, delete, false, 0, 0 },
	{ "lru-percpu-evict", LRU_PERCPU_HASH, 0, ENTRIES, insert_more, true, 0, 0 },
	{ "lru-percpu-replace", LRU_PERCPU_HASH, 0, ENTRIES, replace, true, 0, 0 },
	{ "lru-take-all", LRU_HASH, 0, ENTRIES, delete_all, true, 0, 0 },
	{ "lru-renew", LRU_HASH, 0, ENTRIES, replace, true, 8, 0 },
	{ "lru-renew-room", LRU_HASH, 0, 4, replace, false, 4, 0 },
	{ "lru-renew-all", LRU_HASH, 0, 4, replace_all, true, 8, 0 },
	{ "lru-own-renew", LRU_HASH, OWN, 3, replace, true, 8, 0 },
	{ "lpm-insert", LPM_TRIE, 1, 4, insert, false, 0, 0 },
	{ "lpm-insert-fork", LPM_TRIE, 1, 2, insert, false, 0, 0 },
	{ "lpm-insert-first", LPM_TRIE, 1, 0, insert, false, 0, 0 },
	{ "lpm-replace", LPM_TRIE, 1, 4, replace, false, 0, 0 },
	{ "lpm-delete", LPM_TRIE, 1, 4, delete, false, 0, 0 },
	{ "lpm-delete-fork", LPM_TRIE, 1, 3, delete, false, 0, 0 },
};

/* Every key has what it had before or has afterwards; one that is replaced may be half way. */
static bool between(const struct contents *c, const struct contents *a, const struct contents *b)
{
	for (u32 n = 0; n < MANY; n++)
		if (c->at[n] != a->at[n] && c->at[n] != b->at[n])
			return false;
	return true;
}

static bool lru(u32 type)
{
	return type == LRU_HASH || type == LRU_PERCPU_HASH;
}

/* What one CPU may have in the map. */
static u32 room(const struct map *m)
{
	return lru(m->desc.type) && m->desc.map_flags & OWN ? ENTRIES / VCPUS : ENTRIES;
}

static bool full(u32 type, long err)
{
	return err == (type == LPM_TRIE ? -ENOSPC : -E2BIG);
}

/* The whole room is there. */
static void exercise(struct map *m)
{
	struct contents c;
	u32 type = m->desc.type, n;
	long err = 0;

	read_all(m, &c);
	for (n = 0; n < MANY - ENTRIES; n++) {
		err = put(m, n, 3, 0);
		if (err)
			break;
	}
	if (lru(type)) {
		check(!err);
		/* some are kept free, now and then none is */
		for (u32 more = 0; read_all(m, &c), more < ENTRIES && c.count != room(m); more++)
			check(!put(m, n + more, 3, 0));
	} else {
		for (u32 more = n; more < MANY; more++)
			if (c.at[more] == NOT_THERE)
				check(full(type, put(m, more, 3, 0)));
	}
	read_all(m, &c);
	check(c.count == room(m));
	for (n = 0; n < MANY; n++)
		check(cut(m, n) == (c.at[n] == NOT_THERE ? -ENOENT : 0));
	for (n = 0; n < room(m); n++)
		check(!put(m, MANY - 1 - n, 4, 1));
	read_all(m, &c);
	check(c.count == room(m));
}

static void verify(const struct change *what, const struct map *m, struct map *copy,
		   const struct contents *before, const struct contents *after, u32 slot)
{
	struct contents now;

	memcpy(copy->base, m->base, m->size);
	memcpy(copy->ctl, m->ctl, sizeof(*m->ctl));
	describe(copy);
	copy->run.owner = shim_slot_claim(copy->ctl, (u32)getpid(), 0) | 1;
	read_all(copy, &now); /* the owner is alive, and stopped: readers do not wait for it */
	if (!same(&now, before) && !same(&now, after))
		check(what->many && between(&now, before, after));
	copy->ctl->slot[slot].state = SHIM_SLOT_DEAD;
	exercise(copy);
}

static void child(const struct change *what, struct map *m)
{
	ptrace(PTRACE_TRACEME, 0, 0, 0);
	raise(SIGSTOP);
	what->run(m);
	_exit(0);
}

int main(int argc, char **argv)
{
	static struct map m, copy;
	struct contents before, after;
	const struct change *what = changes;
	u32 n, slot;
	int status;
	pid_t pid;

	while (argc != 2 || strcmp(what->name, argv[1]))
		if (++what == changes + sizeof(changes) / sizeof(changes[0]))
			return 2;
	make(&m, what->type, what->flags, what->value);
	make(&copy, what->type, what->flags, what->value);
	m.run.owner = shim_slot_claim(m.ctl, (u32)getpid(), 0) | 1;
	for (n = 0; n < what->filled; n++)
		check(!put(&m, n, 1, 0));
	for (n = what->cut; n; n--)
		check(!cut(&m, n - 1));
	for (n = 0; n < 2 && lru(what->type); n++) {
		u8 key[KEY];

		key_of(&m, n, key);
		shim_map_lookup(&m.desc, key, &m.run);
	}
	read_all(&m, &before);
	verify(what, &m, &copy, &before, &before, SHIM_MAX_SLOTS - 1);
	memcpy(copy.base, m.base, m.size);
	memcpy(copy.ctl, m.ctl, sizeof(*m.ctl));
	describe(&copy);
	copy.run.owner = m.run.owner;
	what->run(&copy);
	read_all(&copy, &after);

	slot = shim_slot_claim(m.ctl, (u32)getpid(), 0) >> SHIM_OWNER_SLOT_SHIFT;
	m.run.owner = slot << SHIM_OWNER_SLOT_SHIFT | 1 << SHIM_OWNER_GEN_SHIFT | 2;
	pid = fork();
	if (!pid)
		child(what, &m);
	for (step = 0; waitpid(pid, &status, 0) == pid && WIFSTOPPED(status); step++) {
		verify(what, &m, &copy, &before, &after, slot);
		ptrace(PTRACE_SINGLESTEP, pid, 0, 0);
	}
	check(WIFEXITED(status) && !WEXITSTATUS(status));
	read_all(&m, &before);
	check(same(&before, &after));
	printf("%ld\n", step);
	return 0;
}
