/*
 * crowd SECONDS [KILLS]: 8 processes of 4 threads on two maps that they inherit, one of the processes
 * killed now and then and replaced (KILLS a second). Prints what was done; exit status 0 if every
 * model held, 1 if not, 2 if somebody did not come to an end.
 */
#define _GNU_SOURCE
#include <linux/bpf.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "crowd.h"

enum { PROCESSES = 8, THREADS = WORKERS / PROCESSES, PATIENCE = 20 /* s */ };

struct shared {
	struct worker worker[WORKERS];
	uint32_t stop;
};

static struct shared *shared;
static int fds[2];
static pid_t pids[PROCESSES];

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static int element(int cmd, int map, const void *key, const void *value)
{
	union bpf_attr a;

	memset(&a, 0, sizeof(a));
	a.map_fd = (uint32_t)fds[map];
	a.key = (uintptr_t)key;
	if (cmd != BPF_MAP_DELETE_ELEM)
		a.value = (uintptr_t)value;
	return syscall(SYS_bpf, cmd, &a, 32) ? -errno : 0;
}

static int map_lookup(int map, const uint32_t *key, uint64_t *value)
{
	return element(BPF_MAP_LOOKUP_ELEM, map, key, value);
}

static int map_update(int map, const uint32_t *key, const uint64_t *value)
{
	return element(BPF_MAP_UPDATE_ELEM, map, key, value);
}

static int map_delete(int map, const uint32_t *key)
{
	return element(BPF_MAP_DELETE_ELEM, map, key, NULL);
}

static int map_next(int map, const uint32_t *key, uint32_t *next)
{
	return element(BPF_MAP_GET_NEXT_KEY, map, key, next);
}

static int new_map(int type, uint32_t entries)
{
	union bpf_attr a = {
		.map_type = (uint32_t)type, .key_size = 4, .value_size = 8, .max_entries = entries
	};
	int fd = (int)syscall(SYS_bpf, BPF_MAP_CREATE, &a, 72);

	if (fd < 0) {
		perror("crowd: MAP_CREATE");
		exit(1);
	}
	return fd;
}

static void *work(void *arg)
{
	uint32_t index = (uint32_t)(uintptr_t)arg;
	struct worker *w = &shared->worker[index];

	w->random = now() * (index + 1) | 1;
	if (take_over(w, index))
		return NULL;
	while (!__atomic_load_n(&shared->stop, __ATOMIC_ACQUIRE)) {
		uint64_t start = now(), took;

		if (step(w, index))
			return NULL;
		took = now() - start;
		if (took > w->slowest)
			w->slowest = took;
	}
	return NULL;
}

static void process(uint32_t first)
{
	pthread_t threads[THREADS];

	for (uint32_t i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, work, (void *)(uintptr_t)(first + i));
	for (uint32_t i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	_exit(0);
}

static void start(uint32_t n)
{
	fflush(stdout);
	pids[n] = fork();
	if (!pids[n])
		process(n * THREADS);
}

/* False: it lives on after all patience. */
static int ends(pid_t pid)
{
	uint64_t until = now() + PATIENCE * 1000000000ULL;
	struct timespec pause = { 0, 1000000 };

	while (waitpid(pid, NULL, WNOHANG) == 0) {
		if (now() > until)
			return 0;
		nanosleep(&pause, NULL);
	}
	return 1;
}

static int report(uint32_t killed)
{
	uint64_t operations = 0, busy = 0, slowest = 0;
	uint32_t count = 0;
	int bad = settled(shared->worker, &count);

	if (bad)
		printf("the private map does not hold the %u keys of the models\n", count);
	for (uint32_t i = 0; i < WORKERS; i++) {
		struct worker *w = &shared->worker[i];

		operations += w->operations;
		busy += w->busy;
		slowest = w->slowest > slowest ? w->slowest : slowest;
		if (w->failed || take_over(w, i)) {
			printf("worker %u: crowd.h:%u: %d\n", i, w->failed, w->error);
			bad = 1;
		}
	}
	printf("operations %lu busy %lu killed %u keys %u slowest %lu us\n", operations, busy, killed,
	       count, slowest / 1000);
	return bad ? 1 : 0;
}

int main(int argc, char **argv)
{
	uint64_t until = now() + (argc > 1 ? strtoul(argv[1], NULL, 0) : 5) * 1000000000ULL;
	long kills = argc > 2 ? atol(argv[2]) : 5;
	struct timespec pause = { 0, kills ? 1000000000 / kills - 1 : 100000000 };
	uint32_t killed = 0;

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	fds[PRIVATE] = new_map(BPF_MAP_TYPE_HASH, WORKERS * KEYS);
	fds[LRU] = new_map(BPF_MAP_TYPE_LRU_HASH, LRU_SIZE);
	srandom((unsigned int)now());
	for (uint32_t n = 0; n < PROCESSES; n++)
		start(n);
	while (now() < until) {
		uint32_t n = (uint32_t)random() % PROCESSES;

		nanosleep(&pause, NULL);
		if (!kills)
			continue;
		kill(pids[n], SIGKILL);
		if (!ends(pids[n]))
			return 2;
		killed++;
		start(n);
	}
	__atomic_store_n(&shared->stop, 1, __ATOMIC_RELEASE);
	for (uint32_t n = 0; n < PROCESSES; n++)
		if (!ends(pids[n])) {
			printf("process %d does not end\n", pids[n]);
			for (uint32_t i = 0; i < PROCESSES; i++)
				kill(pids[i], SIGKILL);
			return 2;
		}
	return report(killed);
}
