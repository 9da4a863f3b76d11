/*
 * maps: what one element command costs a loader, through libbpf.
 *
 * A line "TYPE COMMAND" on stdin is answered by "ns N": the lower quartile of 41 chunks of 1024
 * commands, in thread CPU time, everything included from the call of libbpf's function to its
 * return. Keys and values lie on the stack, as loaders have them.
 */
#include <bpf/bpf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { KEYS = 1024, CHUNKS = 41 };

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int fill(int fd)
{
	for (unsigned int i = 0; i < KEYS; i++) {
		unsigned long value = i;

		if (bpf_map_update_elem(fd, &i, &value, BPF_ANY))
			return -errno;
	}
	return 0;
}

static int chunk(int fd, const char *command)
{
	unsigned int key = 0, next, i;
	unsigned long value = 0;
	int err = 0;

	if (!strcmp(command, "lookup")) {
		for (i = 0; i < KEYS && !err; i++)
			err = bpf_map_lookup_elem(fd, &i, &value);
	} else if (!strcmp(command, "update")) {
		for (i = 0; i < KEYS && !err; i++)
			err = bpf_map_update_elem(fd, &i, &value, BPF_ANY);
	} else if (!strcmp(command, "delete")) {
		for (i = 0; i < KEYS && !err; i++)
			err = bpf_map_delete_elem(fd, &i);
	} else if (!strcmp(command, "next")) {
		err = bpf_map_get_next_key(fd, NULL, &key);
		for (i = 2; i < KEYS && !err; i++, key = next)
			err = bpf_map_get_next_key(fd, &key, &next);
	} else if (!strcmp(command, "insert")) {
		return fill(fd);
	} else {
		return -EINVAL;
	}
	return err ? -errno : 0;
}

/* Untimed, so that each chunk finds the same map. */
static int before(int fd, const char *command)
{
	if (!strcmp(command, "insert")) {
		for (unsigned int i = 0; i < KEYS; i++)
			bpf_map_delete_elem(fd, &i);
		return 0;
	}
	return fill(fd);
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static int measure(int fd, const char *command, double *result)
{
	double cost[CHUNKS], start;
	int err = 0;

	for (int i = 0; i < CHUNKS; i++) {
		err = before(fd, command);
		start = now();
		err = err ? err : chunk(fd, command);
		cost[i] = (now() - start) / KEYS;
		if (err)
			return err;
	}
	qsort(cost, CHUNKS, sizeof(cost[0]), ascending);
	*result = cost[CHUNKS / 4];
	return 0;
}

int main(void)
{
	int hash = bpf_map_create(BPF_MAP_TYPE_HASH, "bench_hash", 4, 8, 2 * KEYS, NULL);
	int array = bpf_map_create(BPF_MAP_TYPE_ARRAY, "bench_array", 4, 8, KEYS, NULL);
	char line[64], type[16], command[16];

	if (hash < 0 || array < 0)
		return 1;
	printf("ready\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		double cost = 0;
		int err = -EINVAL;

		if (sscanf(line, "%15s %15s", type, command) == 2)
			err = measure(strcmp(type, "HASH") ? array : hash, command, &cost);
		if (err)
			printf("failed: %s\n", strerror(-err));
		else
			printf("ns %.1f\n", cost);
		fflush(stdout);
	}
	return 0;
}
