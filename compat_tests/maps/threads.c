/*
 * threads SECONDS: the crowd of crowd.h as threads on the runtime itself, compiled with
 * -fsanitize=thread together with csrc/runtime. Each thread has a slot of its own in the control
 * page, as a process has. Exit status 0 if every model held (and TSan was silent: its own is 66).
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "crowd.h"
#include "shim_runtime.h"

enum { THREADS = 12 };

static struct shim_ctl *ctl;
static struct shim_map_desc maps[2];
static struct worker workers[WORKERS];
static __thread struct shim_run run;
static uint32_t stop;

static int map_lookup(int map, const uint32_t *key, uint64_t *value)
{
	return (int)shim_map_sys_lookup(&maps[map], key, value, 0, &run);
}

static int map_update(int map, const uint32_t *key, const uint64_t *value)
{
	return (int)shim_map_sys_update(&maps[map], key, value, 0, &run);
}

static int map_delete(int map, const uint32_t *key)
{
	return (int)shim_map_sys_delete(&maps[map], key, &run);
}

static int map_next(int map, const uint32_t *key, uint32_t *next)
{
	return (int)shim_map_sys_next_key(&maps[map], key, next, &run);
}

static void *pages(size_t size)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED)
		exit(2);
	return at;
}

static void new_map(struct shim_map_desc *d, uint32_t type, uint32_t entries)
{
	struct shim_map_hdr hdr = { .magic = SHIM_MAP_MAGIC,
				    .version = SHIM_MAP_VERSION,
				    .type = type,
				    .key_size = 4,
				    .value_size = 8,
				    .max_entries = entries,
				    .nr_vcpus = 1,
				    .nr_cpus = 2 };
	void *base;

	if (shim_map_layout(&hdr))
		exit(2);
	base = pages(hdr.file_size);
	if (shim_map_format(base, &hdr) || shim_map_desc_init(d, base, hdr.file_size))
		exit(2);
	d->ctl = (uintptr_t)ctl;
}

static void *work(void *arg)
{
	uint32_t index = (uint32_t)(uintptr_t)arg;
	struct worker *w = &workers[index];

	run.ctl = (uintptr_t)ctl;
	run.owner = shim_slot_claim(ctl, (uint32_t)getpid(), 0) | 1;
	run.vcpu = SHIM_NO_VCPU;
	w->random = (index + 1) * 0x9e3779b97f4a7c15ULL;
	while (!__atomic_load_n(&stop, __ATOMIC_ACQUIRE))
		if (step(w, index))
			break;
	return NULL;
}

int main(int argc, char **argv)
{
	struct timespec pause = { argc > 1 ? atol(argv[1]) : 5, 0 };
	pthread_t threads[THREADS];
	uint64_t operations = 0;
	uint32_t count;
	int bad = 0;

	ctl = pages(sizeof(*ctl));
	ctl->nr_vcpus = 1;
	for (uint32_t i = 0; i < SHIM_MAX_SLOTS; i++)
		ctl->slot[i].gen = 1;
	new_map(&maps[PRIVATE], 1, WORKERS * KEYS);
	new_map(&maps[LRU], 9, LRU_SIZE);
	for (uint32_t i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, work, (void *)(uintptr_t)i);
	nanosleep(&pause, NULL);
	__atomic_store_n(&stop, 1, __ATOMIC_RELEASE);
	for (uint32_t i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	run.ctl = (uintptr_t)ctl;
	run.owner = shim_slot_claim(ctl, (uint32_t)getpid(), 0) | 1;
	for (uint32_t i = 0; i < THREADS; i++) {
		operations += workers[i].operations;
		if (workers[i].failed || take_over(&workers[i], i)) {
			printf("worker %u: crowd.h:%u: %d\n", i, workers[i].failed, workers[i].error);
			bad = 1;
		}
	}
	if (settled(workers, &count)) {
		printf("the private map does not hold the %u keys of the models\n", count);
		bad = 1;
	}
	printf("operations %lu keys %u\n", operations, count);
	return bad;
}
