/* What stress.c and keepers.c share: memory of several processes, which are killed, and buried as the backend does. */
#ifndef STRESS_H
#define STRESS_H

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "shim_runtime.h"

#define check(cond, ...) \
	do { \
		if (!(cond)) { \
			fprintf(stderr, "line %d: %s: ", __LINE__, #cond); \
			fprintf(stderr, __VA_ARGS__); \
			fputc('\n', stderr); \
			_exit(1); \
		} \
	} while (0)

static void *shared_memory(u64 size)
{
	void *at = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1,
			0);

	check(at != MAP_FAILED, "%llu bytes", size);
	return at;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* As the backend: the slot is free in another generation. */
static void bury(struct shim_ctl *ctl, pid_t pid)
{
	for (u32 i = 1; i < SHIM_MAX_SLOTS; i++)
		if (ctl->slot[i].state == SHIM_SLOT_LIVE && ctl->slot[i].pid == (u32)pid) {
			ctl->slot[i].gen = ctl->slot[i].gen % 1023 + 1;
			__atomic_store_n(&ctl->slot[i].state, SHIM_SLOT_FREE, __ATOMIC_RELEASE);
		}
}

#endif
