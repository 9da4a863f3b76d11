/*
 * What each worker of a crowd does to maps that all of them share, whatever the maps are reached by
 * (crowd.c: bpf(2) from many processes; threads.c: the runtime itself, from threads).
 *
 * A hash map holds every worker's private keys, which nobody else writes: what a worker reads there
 * must be what it wrote last. An LRU map a quarter of the size of what is written to it evicts all
 * the time: a value there must be one of its key. Both are walked, in order and by batches, while
 * they change. A model in shared memory says before each write what it will be.
 */
#ifndef CROWD_H
#define CROWD_H

#include <errno.h>
#include <stdint.h>
#include <string.h>

enum { WORKERS = 32, KEYS = 24, LRU_SIZE = 128, LRU_KEYS = 512, STEPS = 2000 };

/* The maps of a crowd, as its program reaches them: 0 or -errno. */
enum { PRIVATE, LRU };
static int map_lookup(int map, const uint32_t *key, uint64_t *value);
static int map_update(int map, const uint32_t *key, const uint64_t *value);
static int map_delete(int map, const uint32_t *key);
static int map_next(int map, const uint32_t *key, uint32_t *next);

/* One key: 0 absent, else the value. While pending, either of the two. */
struct expected {
	uint64_t now, next;
	uint32_t pending, pad;
};

struct worker {
	struct expected key[KEYS];
	uint64_t operations, busy, slowest; /* ns */
	uint32_t failed; /* a line of this file, 0: all is well */
	int32_t error;
	uint64_t random;
};

static uint64_t draw(struct worker *w)
{
	w->random ^= w->random << 13;
	w->random ^= w->random >> 7;
	w->random ^= w->random << 17;
	return w->random;
}

static int fails(struct worker *w, uint32_t line, int error)
{
	if (!__atomic_load_n(&w->failed, __ATOMIC_RELAXED)) {
		w->error = error;
		__atomic_store_n(&w->failed, line, __ATOMIC_RELAXED);
	}
	return -1;
}

#define FAIL(w, error) fails(w, __LINE__, error)

static uint32_t private_key(uint32_t index, uint32_t n)
{
	return index * 1000 + n;
}

/* After a predecessor's death: each key is as it was before or after the write under way. */
static int take_over(struct worker *w, uint32_t index)
{
	for (uint32_t n = 0; n < KEYS; n++) {
		struct expected *e = &w->key[n];
		uint32_t key = private_key(index, n);
		uint64_t value = 0;
		int err = map_lookup(PRIVATE, &key, &value);

		if (err && err != -ENOENT)
			return FAIL(w, err);
		if (value != e->now && !(e->pending && value == e->next))
			return FAIL(w, (int)n);
		e->now = value;
		e->pending = 0;
	}
	return 0;
}

/* Tries again where the kernel would have waited for ever: how often is counted. */
static int write_private(struct worker *w, uint32_t index, uint32_t n, uint64_t value)
{
	struct expected *e = &w->key[n];
	uint32_t key = private_key(index, n);
	int err;

	e->next = value;
	__atomic_store_n(&e->pending, 1, __ATOMIC_RELEASE);
	for (int i = 0; i < 10; i++) {
		err = value ? map_update(PRIVATE, &key, &value) : map_delete(PRIVATE, &key);
		if (err != -EBUSY)
			break;
		w->busy++;
	}
	if (err && !(err == -ENOENT && !value && !e->now))
		return FAIL(w, err);
	e->now = value;
	__atomic_store_n(&e->pending, 0, __ATOMIC_RELEASE);
	return 0;
}

static int check_private(struct worker *w, uint32_t index, uint32_t n)
{
	uint32_t key = private_key(index, n);
	uint64_t value = 0;
	int err = map_lookup(PRIVATE, &key, &value);

	if (err != (w->key[n].now ? 0 : -ENOENT) || value != w->key[n].now)
		return FAIL(w, err);
	return 0;
}

static int use_lru(struct worker *w, uint32_t key, int write)
{
	uint64_t value = (uint64_t)key << 32 | (w->operations & 0xffffffff);
	int err;

	if (write) {
		err = map_update(LRU, &key, &value);
		/* everything may be in somebody's hand for a moment, as in the kernel */
		if (err == -EBUSY || err == -ENOMEM)
			w->busy++;
		else if (err)
			return FAIL(w, err);
		return 0;
	}
	err = map_lookup(LRU, &key, &value);
	if (err && err != -ENOENT)
		return FAIL(w, err);
	if (!err && value >> 32 != key)
		return FAIL(w, (int)(value >> 32));
	return 0;
}

/* A walk that a change may send back to the start: bounded. */
static int walk(struct worker *w, int map)
{
	uint32_t key, next;
	int err = map_next(map, NULL, &key);

	for (int i = 0; !err && i < STEPS; i++) {
		if (map == PRIVATE ? key / 1000 >= WORKERS || key % 1000 >= KEYS : key >= LRU_KEYS)
			return FAIL(w, (int)key);
		err = map_next(map, &key, &next);
		key = next;
	}
	return err && err != -ENOENT ? FAIL(w, err) : 0;
}

/* One step; 0, or -1 with w->failed said. */
static int step(struct worker *w, uint32_t index)
{
	uint64_t dice = draw(w);
	uint32_t n = dice >> 8 & 0xffff;

	w->operations++;
	switch (dice & 15) {
	case 0: return walk(w, dice >> 40 & 1 ? PRIVATE : LRU);
	case 1:
	case 2: return write_private(w, index, n % KEYS, 0);
	case 3:
	case 4:
	case 5:
	case 6: return write_private(w, index, n % KEYS, (w->operations << 8) | 1);
	case 7:
	case 8:
	case 9: return check_private(w, index, n % KEYS);
	case 10:
	case 11:
	case 12: return use_lru(w, n % LRU_KEYS, 1);
	default: return use_lru(w, n % LRU_KEYS, 0);
	}
}

/* When nobody writes any more: the private map holds what the models say, and nothing else. */
static int settled(struct worker *all, uint32_t *count)
{
	uint32_t key, next, models = 0, walked = 0;
	int err = map_next(PRIVATE, NULL, &key);

	for (uint32_t i = 0; i < WORKERS; i++)
		for (uint32_t n = 0; n < KEYS; n++)
			models += all[i].key[n].now != 0;
	for (; !err && walked <= models; walked++) {
		err = map_next(PRIVATE, &key, &next);
		key = next;
	}
	*count = models;
	return walked == models && err == -ENOENT ? 0 : -1;
}

#endif
