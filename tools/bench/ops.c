/*
 * ops FILE.bpf.o CPU: what operations of programs cost, by PROG_TEST_RUN on one CPU.
 *
 * A line NAME on stdin is answered by "ns N": the lower quartile of 21 chunks of about 300 µs of
 * thread CPU time, ns a run of the program of that name, which makes LOOPS operations. Between two
 * chunks the ring buffer is emptied; one chunk does not fill it. So it has MOST runs at most, of any program:
 * what a call costs by itself is then the same part of each figure, and of that of the loop alone.
 */
#define _GNU_SOURCE
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "ops.h"

enum { CHUNKS = 21, CHUNK_NS = 300000, MOST = RING / RECORD / LOOPS - 1 };

static struct ring_buffer *ring;

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int run(int fd, unsigned int times)
{
	char packet[64] = { 0 };
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = packet, .data_size_in = sizeof(packet),
		    .repeat = (int)times);
	int err = bpf_prog_test_run_opts(fd, &opts);

	return err ? err : opts.retval ? -EPROTO : 0;
}

static int drop(void *ctx, void *data, size_t size)
{
	(void)ctx, (void)data, (void)size;
	return 0;
}

/* ns a run, of so many */
static int chunk(int fd, unsigned int times, double *took)
{
	double began = now();
	int err = run(fd, times);

	*took = (now() - began) / times;
	return err ? err : ring_buffer__consume(ring) < 0 ? -EIO : 0;
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static int measure(struct bpf_object *obj, const char *name, double *result)
{
	struct bpf_program *prog = bpf_object__find_program_by_name(obj, name);
	unsigned int times = 64;
	double took[CHUNKS];
	int err = 0, fd = prog ? bpf_program__fd(prog) : -ENOENT;

	if (fd < 0)
		return fd;
	for (int i = 0; i < 3 && !err; i++) { /* the call's own cost makes the first ones longer */
		err = chunk(fd, times, took);
		times = (unsigned int)(CHUNK_NS / took[0]) + 1;
		times = times < MOST ? times : MOST;
	}
	for (int i = 0; i < CHUNKS && !err; i++)
		err = chunk(fd, times, &took[i]);
	qsort(took, CHUNKS, sizeof(took[0]), ascending);
	*result = took[CHUNKS / 4];
	return err;
}

static int show_memory(struct bpf_object *obj)
{
	static char memory[64] = "thirty-one bytes of text and NUL";
	struct bpf_map *map = bpf_object__find_map_by_name(obj, ".rodata");
	void *nowhere = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct where where = { (unsigned long long)memory, (unsigned long long)nowhere };

	memory[TEXT - 1] = 0;
	if (!map || nowhere == MAP_FAILED)
		return -ENOENT;
	return bpf_map__set_initial_value(map, &where, sizeof(where));
}

int main(int argc, char **argv)
{
	struct bpf_object *obj;
	char line[64];
	cpu_set_t cpus;

	if (argc != 3)
		return 2;
	CPU_ZERO(&cpus);
	CPU_SET(atoi(argv[2]), &cpus);
	setvbuf(stdout, NULL, _IONBF, 0);
	obj = bpf_object__open_file(argv[1], NULL);
	if (!obj || show_memory(obj) || bpf_object__load(obj) ||
	    sched_setaffinity(0, sizeof(cpus), &cpus)) {
		printf("start: %s\n", strerror(errno));
		return 1;
	}
	ring = ring_buffer__new(bpf_object__find_map_fd_by_name(obj, "ring"), drop, NULL, NULL);
	if (!ring || run(bpf_program__fd(bpf_object__find_program_by_name(obj, "fill")), 1)) {
		printf("fill: %s\n", strerror(errno));
		return 1;
	}
	printf("ready\n");
	while (fgets(line, sizeof(line), stdin)) {
		double ns;
		int err;

		line[strcspn(line, "\n")] = 0;
		err = measure(obj, line, &ns);
		if (err)
			printf("failed: %s\n", strerror(-err));
		else
			printf("ns %.2f\n", ns);
	}
	ring_buffer__free(ring);
	bpf_object__close(obj);
	return 0;
}
