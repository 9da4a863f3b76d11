/* Values: as sequences write them, and as what was read is told. */
#define _GNU_SOURCE
#include <linux/perf_event.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "driver.h"

int aux[KINDS][MAX_AUX];
static int aux_id[KINDS][MAX_AUX], made[KINDS];

size_t value_bytes(void)
{
	if (seq.values != BYTES)
		return 4;
	return seq.style & PERCPU ? (size_t)(create.value_size + 7) / 8 * 8 * ncpus : create.value_size;
}

void make_one(uint8_t *at, size_t size, uint64_t seed)
{
	uint64_t w = seed * 0x9e3779b97f4a7c15ULL + 1;

	for (size_t i = 0; i < size; i++, w = w * 6364136223846793005ULL + 1442695040888963407ULL)
		at[i] = seed ? (uint8_t)(w >> 56) : 0;
}

/* CPU n gets what CPU n % SHOWN_CPUS gets. */
void make_value(uint8_t *at, uint32_t seed)
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

size_t shown_bytes(void)
{
	if (seq.values != BYTES)
		return 4;
	return seq.style & PERCPU ? (size_t)(create.value_size + 7) / 8 * 8 * SHOWN_CPUS
				  : create.value_size;
}

/* What is told of a value; its length is shown_bytes(). */
void show_value(uint8_t *to, const uint8_t *at)
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

int new_map(uint32_t type, uint32_t key, uint32_t value, uint32_t entries)
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
void make_aux(uint32_t kind)
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
