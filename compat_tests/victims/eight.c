/*
 * eight OBJECT PROGRAM LIBRARY: a libbpf loader with eight uprobes on every process that runs
 * PROGRAM (offsets of symbols by libbpf itself; on_step at v_steps+5; on_lib with cookie 3).
 *
 * Prints READY when all are attached. Then each line on stdin prints one line of results:
 * "hits:sum:percpu" for each probe, the .bss total, the processes seen, ring buffer events.
 * Ends at the end of stdin. Exit status 1 with libbpf's reason on stderr if a step fails.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PROBES = 8, MAX_CPUS = 1024 };

static const struct probe {
	const char *program, *symbol;
	unsigned long offset;
	int ret, in_library;
	unsigned long cookie;
} probes[PROBES] = {
	{ "on_tick", "v_tick", 0, 0, 0, 0 },	{ "on_add", "v_add", 0, 0, 0, 0 },
	{ "on_scaled", "v_scale", 0, 1, 0, 0 }, { "on_greet", "v_greet", 0, 0, 0, 0 },
	{ "on_six", "v_six", 0, 0, 0, 0 },	{ "on_label", "v_label", 0, 1, 0, 0 },
	{ "on_step", "v_steps", 5, 0, 0, 0 },	{ "on_lib", "lib_work", 0, 0, 1, 3 },
};

static long ring_events;

static int on_event(void *context, void *data, size_t size)
{
	(void)context;
	(void)data;
	ring_events += size == sizeof(int);
	return 0;
}

static int fail(const char *what)
{
	fprintf(stderr, "eight: %s: %s\n", what, strerror(errno));
	return 1;
}

static int report(struct bpf_object *object, struct ring_buffer *ring)
{
	int tallies = bpf_object__find_map_fd_by_name(object, "tallies");
	int per_cpu = bpf_object__find_map_fd_by_name(object, "per_cpu");
	int by_process = bpf_object__find_map_fd_by_name(object, "by_process");
	int bss = bpf_object__find_map_fd_by_name(object, ".bss");
	static unsigned long long values[MAX_CPUS], tally[2];
	unsigned long long key, *previous = NULL, processes = 0;
	int cpus = libbpf_num_possible_cpus();
	unsigned long long *total = mmap(NULL, 4096, PROT_READ, MAP_SHARED, bss, 0);

	if (total == MAP_FAILED)
		return fail("mmap of .bss");
	if (cpus < 1 || cpus > MAX_CPUS)
		return fail("number of CPUs");
	for (unsigned int probe = 0; probe < PROBES; probe++) {
		unsigned long long sum = 0;

		if (bpf_map_lookup_elem(tallies, &probe, tally) ||
		    bpf_map_lookup_elem(per_cpu, &probe, values))
			return fail("lookup");
		for (int cpu = 0; cpu < cpus; cpu++)
			sum += values[cpu];
		printf("%llu:%llu:%llu ", tally[0], tally[1], sum);
	}
	while (!bpf_map_get_next_key(by_process, previous, &key)) {
		previous = &key;
		processes += (key & 0xff) == 0;
	}
	if (ring_buffer__consume(ring) < 0)
		return fail("ring buffer");
	printf("total %llu processes %llu events %ld\n", *total, processes, ring_events);
	munmap(total, 4096);
	fflush(stdout);
	return 0;
}

static int attach(struct bpf_object *object, const struct probe *probe, const char *path)
{
	LIBBPF_OPTS(bpf_uprobe_opts, options, .func_name = probe->symbol, .retprobe = probe->ret,
		    .bpf_cookie = probe->cookie);
	struct bpf_program *program = bpf_object__find_program_by_name(object, probe->program);

	if (!program || !bpf_program__attach_uprobe_opts(program, -1, path, probe->offset, &options))
		return fail(probe->program);
	return 0;
}

int main(int argc, char **argv)
{
	struct ring_buffer *ring;
	struct bpf_object *object;
	char line[16];

	if (argc != 4)
		return 2;
	object = bpf_object__open_file(argv[1], NULL);
	if (!object)
		return fail("open");
	if (bpf_object__load(object))
		return fail("load");
	ring = ring_buffer__new(bpf_object__find_map_fd_by_name(object, "events"), on_event, NULL,
				NULL);
	if (!ring)
		return fail("ring buffer");
	for (int i = 0; i < PROBES; i++)
		if (attach(object, &probes[i], argv[probes[i].in_library ? 3 : 2]))
			return 1;
	printf("READY\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin))
		if (report(object, ring))
			return 1;
	ring_buffer__free(ring);
	bpf_object__close(object);
	return 0;
}
