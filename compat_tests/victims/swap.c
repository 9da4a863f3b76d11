/*
 * swap OBJECT PROGRAM: swap.bpf.o on v_tick of every process that runs PROGRAM.
 *
 * Prints READY when it is attached, then obeys stdin, a line an order, a line an answer:
 * "keep N", "drop N": N times, another inner map and the other program; inner maps that went are
 * kept open, or not. "clear": all elements are deleted. "report": the counts, and the sum over
 * the inner maps that are open.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { COUNTS = 5, MAX_INNER = 4096 };

static const char *const names[COUNTS] = { "hits", "empty", "fell", "first", "second" };
static struct bpf_object *object;
static int inner[MAX_INNER], inners, swaps;

static int fail(const char *what)
{
	fprintf(stderr, "swap: %s: %s\n", what, strerror(errno));
	return 1;
}

static int map_fd(const char *name)
{
	return bpf_object__find_map_fd_by_name(object, name);
}

static int prog_fd(const char *name)
{
	return bpf_program__fd(bpf_object__find_program_by_name(object, name));
}

static int swap(int keep)
{
	int fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, "inner", 4, 8, 1, NULL);
	int prog = prog_fd(swaps++ & 1 ? "second" : "first");
	unsigned long long seven = 7;
	unsigned int zero = 0;

	if (fd < 0 || inners == MAX_INNER)
		return fail("inner map");
	if (bpf_map_update_elem(map_fd("by_index"), &zero, &fd, BPF_ANY) ||
	    bpf_map_update_elem(map_fd("by_key"), &seven, &fd, BPF_ANY) ||
	    bpf_map_update_elem(map_fd("programs"), &zero, &prog, BPF_ANY))
		return fail("update");
	if (inners && !keep)
		close(inner[--inners]);
	inner[inners++] = fd;
	return 0;
}

static int clear(void)
{
	unsigned long long seven = 7;
	unsigned int zero = 0;

	if (bpf_map_delete_elem(map_fd("by_index"), &zero) ||
	    bpf_map_delete_elem(map_fd("by_key"), &seven) ||
	    bpf_map_delete_elem(map_fd("programs"), &zero))
		return fail("delete");
	printf("cleared\n");
	return 0;
}

static int report(void)
{
	unsigned long long value, sum = 0;
	unsigned int zero = 0;

	for (unsigned int i = 0; i < COUNTS; i++) {
		if (bpf_map_lookup_elem(map_fd("tallies"), &i, &value))
			return fail("lookup");
		printf("%s %llu ", names[i], value);
	}
	for (int i = 0; i < inners; i++) {
		if (bpf_map_lookup_elem(inner[i], &zero, &value))
			return fail("lookup");
		sum += value;
	}
	printf("inner %llu\n", sum);
	return 0;
}

static int obey(const char *line)
{
	int count, err = 0;

	if (!strncmp(line, "report", 6))
		return report();
	if (!strncmp(line, "clear", 5))
		return clear();
	if (sscanf(line, "%*s %d", &count) != 1)
		return 2;
	for (int i = 0; i < count && !err; i++)
		err = swap(!strncmp(line, "keep", 4));
	printf("swapped %d\n", count);
	return err;
}

int main(int argc, char **argv)
{
	LIBBPF_OPTS(bpf_uprobe_opts, options, .func_name = "v_tick");
	struct bpf_program *program;
	char line[64];
	int err = 0;

	if (argc != 3)
		return 2;
	object = bpf_object__open_file(argv[1], NULL);
	if (!object || bpf_object__load(object))
		return fail("load");
	if (swap(1))
		return 1;
	program = bpf_object__find_program_by_name(object, "on_tick");
	if (!bpf_program__attach_uprobe_opts(program, -1, argv[2], 0, &options))
		return fail("attach");
	printf("READY\n");
	fflush(stdout);
	while (!err && fgets(line, sizeof(line), stdin)) {
		err = obey(line);
		fflush(stdout);
	}
	return err;
}
