/*
 * compute: what programs cost that compute, by PROG_TEST_RUN or as native code.
 *
 * compute FILE.bpf.o: a line NAME on stdin is answered by "ns R0 N": what the program of that name
 * returned, and the lower quartile of 15 chunks of about 2 ms of thread CPU time, a run. Without FILE
 * the same of the functions in compute_native.c, which are linked in.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { CHUNKS = 15, CHUNK_NS = 2000000 };

#define EACH(do_) \
	do_(fill) do_(log2) do_(prime) do_(memcpy) do_(strncmp) do_(fnv) do_(alu) do_(switch_) \
		do_(calls) do_(helpers) do_(hashwalk) do_(decimal) do_(checksum) do_(crc) do_(matmul) \
			do_(choose)
#define DECLARE(name) int native_##name(void);
EACH(DECLARE)
#define ROW(name) { #name, native_##name },

static const struct {
	const char *name;
	int (*run)(void);
} rows[] = { EACH(ROW) };

static __thread unsigned long long self[2];

unsigned long long answer_cpu(void);
unsigned long long answer_pid_tgid(void);

unsigned long long answer_cpu(void)
{
	return self[0];
}

unsigned long long answer_pid_tgid(void)
{
	return self[1];
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int run(struct bpf_object *obj, const char *name, unsigned int times, int *result)
{
	char packet[64] = { 0 };
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = packet, .data_size_in = sizeof(packet),
		    .repeat = (int)times);

	if (obj) {
		struct bpf_program *prog = bpf_object__find_program_by_name(obj, name);
		int err = prog ? bpf_prog_test_run_opts(bpf_program__fd(prog), &opts) : -ENOENT;

		*result = (int)opts.retval;
		return err;
	}
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		if (strcmp(rows[i].name, name))
			continue;
		for (unsigned int n = 0; n < times; n++)
			*result = rows[i].run();
		return 0;
	}
	return -ENOENT;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static int measure(struct bpf_object *obj, const char *name)
{
	unsigned int times = 64;
	double took[CHUNKS], began;
	int result = 0, err;

	for (;;) {
		began = now();
		err = run(obj, name, times, &result);
		if (err)
			return err;
		if (now() - began >= CHUNK_NS / 2 || times >= 1 << 20)
			break;
		times *= 2;
	}
	for (int i = 0; i < CHUNKS; i++) {
		began = now();
		err = run(obj, name, times, &result);
		took[i] = (now() - began) / times;
		if (err)
			return err;
	}
	qsort(took, CHUNKS, sizeof(took[0]), compare);
	printf("ns %d %.1f\n", result, took[CHUNKS / 4]);
	return 0;
}

int main(int argc, char **argv)
{
	struct bpf_object *obj = NULL;
	char line[64];
	int result, err;

	setvbuf(stdout, NULL, _IONBF, 0);
	if (argc > 1) {
		obj = bpf_object__open_file(argv[1], NULL);
		if (!obj || bpf_object__load(obj)) {
			printf("load: %s\n", strerror(errno));
			return 1;
		}
	}
	err = run(obj, "fill", 1, &result);
	if (err) {
		printf("fill: %s\n", strerror(-err));
		return 1;
	}
	printf("ready\n");
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		err = measure(obj, line);
		if (err)
			printf("%s\n", strerror(-err));
	}
	bpf_object__close(obj);
	return 0;
}
