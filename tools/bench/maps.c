/*
 * maps: what one element command costs a loader, through libbpf.
 *
 * A line "TYPE COMMAND" on stdin is answered by "ns N": the lower quartile of 41 chunks of 1024
 * commands, in thread CPU time, everything included from the call of libbpf's function to its
 * return. Keys and values lie on the stack, as loaders have them. "full" is an update of a new key
 * in an LRU map that must evict another one for it.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { KEYS = 1024, CHUNKS = 41, CPUS = 512 };

static const struct kind {
	const char *name;
	enum bpf_map_type type;
	unsigned int key, entries, flags;
} kinds[] = {
	{ "HASH", BPF_MAP_TYPE_HASH, 4, 2 * KEYS, 0 },
	{ "ARRAY", BPF_MAP_TYPE_ARRAY, 4, KEYS, 0 },
	{ "LRU_HASH", BPF_MAP_TYPE_LRU_HASH, 4, 2 * KEYS, 0 },
	{ "PERCPU_HASH", BPF_MAP_TYPE_PERCPU_HASH, 4, 2 * KEYS, 0 },
	{ "PERCPU_ARRAY", BPF_MAP_TYPE_PERCPU_ARRAY, 4, KEYS, 0 },
	{ "LRU_PERCPU_HASH", BPF_MAP_TYPE_LRU_PERCPU_HASH, 4, 2 * KEYS, 0 },
	{ "LPM_TRIE", BPF_MAP_TYPE_LPM_TRIE, 8, 2 * KEYS, 1 /* BPF_F_NO_PREALLOC */ },
	{ "QUEUE", BPF_MAP_TYPE_QUEUE, 0, KEYS, 0 },
	{ "STACK", BPF_MAP_TYPE_STACK, 0, KEYS, 0 },
};
enum { KINDS = sizeof(kinds) / sizeof(kinds[0]) };

/* Of every type: a u32, or a struct bpf_lpm_trie_key with the whole of four bytes as prefix. */
struct key {
	unsigned int word[2];
};

static int fds[KINDS];
static unsigned int turn; /* of "full": which keys are new */

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static inline void set_key(struct key *key, const struct kind *kind, unsigned int n)
{
	key->word[0] = kind->key == 8 ? 32 : n;
	key->word[1] = n;
}

static int update(const struct kind *kind, int fd, unsigned int from)
{
	unsigned long value[CPUS] = { 0 };
	struct key key;
	int err = 0;

	for (unsigned int i = from; i < from + KEYS && !err; i++) {
		set_key(&key, kind, i);
		value[0] = i;
		err = bpf_map_update_elem(fd, kind->key ? &key : NULL, value, BPF_ANY);
	}
	return err;
}

static int lookup(const struct kind *kind, int fd)
{
	unsigned long value[CPUS];
	struct key key;
	int err = 0;

	for (unsigned int i = 0; i < KEYS && !err; i++) {
		set_key(&key, kind, i);
		err = bpf_map_lookup_elem(fd, kind->key ? &key : NULL, value);
	}
	return err;
}

static int take(int fd)
{
	unsigned long value;
	int err = 0;

	for (unsigned int i = 0; i < KEYS && !err; i++)
		err = bpf_map_lookup_and_delete_elem(fd, NULL, &value);
	return err;
}

static int delete (const struct kind *kind, int fd)
{
	struct key key;
	int err = 0;

	for (unsigned int i = 0; i < KEYS && !err; i++) {
		set_key(&key, kind, i);
		err = bpf_map_delete_elem(fd, &key);
	}
	return err;
}

static int next_key(int fd)
{
	struct key key, next;
	int err = bpf_map_get_next_key(fd, NULL, &key);

	for (unsigned int i = 2; i < KEYS && !err; i++, key = next)
		err = bpf_map_get_next_key(fd, &key, &next);
	return err;
}

/* Leaves only what a loop over all keys finds. */
static void empty(const struct kind *kind, int fd)
{
	unsigned long value;
	struct key key;

	while (!kind->key && !bpf_map_lookup_and_delete_elem(fd, NULL, &value))
		;
	while (kind->key && !bpf_map_get_next_key(fd, NULL, &key))
		if (bpf_map_delete_elem(fd, &key))
			break; /* an array */
}

static int chunk(const struct kind *kind, int fd, const char *command)
{
	if (!strcmp(command, "lookup") || !strcmp(command, "peek"))
		return lookup(kind, fd);
	if (!strcmp(command, "update") || !strcmp(command, "insert") || !strcmp(command, "push"))
		return update(kind, fd, 0);
	if (!strcmp(command, "full"))
		return update(kind, fd, ++turn * KEYS);
	if (!strcmp(command, "delete"))
		return delete (kind, fd);
	if (!strcmp(command, "next"))
		return next_key(fd);
	if (!strcmp(command, "pop"))
		return take(fd);
	errno = EINVAL;
	return -1;
}

/* Untimed, so that each chunk finds the same map. */
static int before(const struct kind *kind, int fd, const char *command)
{
	if (!strcmp(command, "full"))
		return 0;
	if (!kind->key || !strcmp(command, "insert"))
		empty(kind, fd);
	if (!strcmp(command, "insert") || !strcmp(command, "push"))
		return 0;
	return update(kind, fd, 0);
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static int measure(const struct kind *kind, int fd, const char *command, double *result)
{
	double cost[CHUNKS], start;
	int err;

	empty(kind, fd);
	err = update(kind, fd, 0);
	if (!err && !strcmp(command, "full"))
		err = update(kind, fd, ++turn * KEYS) || update(kind, fd, ++turn * KEYS);
	for (int i = 0; i < CHUNKS && !err; i++) {
		err = before(kind, fd, command);
		start = now();
		err = err ? err : chunk(kind, fd, command);
		cost[i] = (now() - start) / KEYS;
	}
	if (err)
		return -errno;
	qsort(cost, CHUNKS, sizeof(cost[0]), ascending);
	*result = cost[CHUNKS / 4];
	return 0;
}

static int answer(const char *name, const char *command, double *cost)
{
	for (unsigned int i = 0; i < KINDS; i++)
		if (!strcmp(kinds[i].name, name))
			return measure(&kinds[i], fds[i], command, cost);
	return -EINVAL;
}

int main(void)
{
	char line[64], name[24], command[16];

	if (libbpf_num_possible_cpus() > CPUS)
		return 1;
	for (unsigned int i = 0; i < KINDS; i++) {
		LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = kinds[i].flags);

		fds[i] = bpf_map_create(kinds[i].type, "bench", kinds[i].key, 8, kinds[i].entries,
					&opts);
		if (fds[i] < 0)
			return 1;
	}
	printf("ready\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		double cost = 0;
		int err = -EINVAL;

		if (sscanf(line, "%23s %15s", name, command) == 2)
			err = answer(name, command, &cost);
		if (err)
			printf("failed: %s\n", strerror(-err));
		else
			printf("ns %.1f\n", cost);
		fflush(stdout);
	}
	return 0;
}
