/*
 * load OBJECT VICTIM COMMAND: attaches each program of OBJECT to the function of VICTIM that its name
 * has behind "at_"; programs of perf events to a clock of the process in $CLOCK_PID, and those that it
 * begins if $INHERIT is there. Says READY, runs
 * COMMAND, waits until out[2] is $ENOUGH (and, with $INHERIT, others than the first thread are there:
 * out[1]), and prints what the map `out` holds, one line a word that is not 0.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct bpf_link *attach(struct bpf_program *prog, const char *path)
{
	LIBBPF_OPTS(bpf_uprobe_opts, opts, .func_name = bpf_program__name(prog) + 3);
	struct perf_event_attr attr = { .type = PERF_TYPE_SOFTWARE,
					.size = sizeof(attr),
					.config = PERF_COUNT_SW_CPU_CLOCK,
					.sample_period = 2000000,
					.inherit = getenv("INHERIT") != NULL };
	const char *pid = getenv("CLOCK_PID");
	int fd;

	if (bpf_program__type(prog) != BPF_PROG_TYPE_PERF_EVENT)
		return bpf_program__attach_uprobe_opts(prog, -1, path, 0, &opts);
	fd = (int)syscall(SYS_perf_event_open, &attr, pid ? atoi(pid) : -1, -1, -1,
			  PERF_FLAG_FD_CLOEXEC);
	return fd < 0 ? NULL : bpf_program__attach_perf_event(prog, fd);
}

static unsigned long word(struct bpf_map *map, unsigned int at)
{
	unsigned long value = 0;

	bpf_map_lookup_elem(bpf_map__fd(map), &at, &value);
	return value;
}

int main(int argc, char **argv)
{
	struct bpf_object *object = argc == 4 ? bpf_object__open(argv[1]) : NULL;
	struct bpf_program *prog;
	const char *enough = getenv("ENOUGH");
	struct bpf_map *map;
	int status;

	if (!object || bpf_object__load(object))
		return 1;
	bpf_object__for_each_program(prog, object) if (!attach(prog, argv[2]))
	{
		perror(bpf_program__name(prog));
		return 2;
	}
	printf("READY\n");
	fflush(stdout);
	status = system(argv[3]);
	map = bpf_object__find_map_by_name(object, "out");
	for (int i = 0; enough && i < 3000; i++) {
		if (word(map, 2) >= strtoul(enough, NULL, 10) && (!getenv("INHERIT") || word(map, 1)))
			break;
		usleep(10000);
	}
	for (unsigned int i = 0; map && i < bpf_map__max_entries(map); i++)
		if (word(map, i))
			printf("out[%u] %lu\n", i, word(map, i));
	return status ? 3 : 0;
}
