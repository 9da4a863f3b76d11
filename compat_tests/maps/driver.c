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
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "driver.h"
#include "runner.h"

union bpf_attr create;
struct sequence seq;
uint8_t *keys, *key_area, *value_area, *out;
size_t out_len;
uint32_t ncpus;
int runner, fd, other;
static uint32_t calls;

void die(const char *what)
{
	fprintf(stderr, "driver: %s: %s\n", what, strerror(errno));
	exit(3);
}

static int patient; /* the kernel's side */

/* The kernel's task storages ask to try an update again while they still free what a thread had
 * before. Nobody else is asked twice, and the shim never. */
int bpf(int cmd, void *attr, uint32_t size)
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

void put(const void *from, size_t size)
{
	if (out_len + size > AREA)
		die("answer too long");
	memcpy(out + out_len, from, size);
	out_len += size;
}

void put32(uint32_t v)
{
	put(&v, 4);
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
