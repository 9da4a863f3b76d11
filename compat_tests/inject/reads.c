/*
 * reads OBJECT FILE OFFSET: attaches its program to every process at that offset (hexadecimal) of
 * FILE; "READY"; then for each line of stdin the four counters of reads.bpf.c.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fail(const char *what)
{
	fprintf(stderr, "reads: %s: %s\n", what, strerror(errno));
	return 1;
}

int main(int argc, char **argv)
{
	struct bpf_object *object = argc == 4 ? bpf_object__open_file(argv[1], NULL) : NULL;
	struct bpf_program *program;
	char line[64];
	int counters;

	if (!object || bpf_object__load(object))
		return fail("load");
	program = bpf_object__find_program_by_name(object, "on_hit");
	counters = bpf_object__find_map_fd_by_name(object, "counters");
	if (!bpf_program__attach_uprobe(program, 0, -1, argv[2], strtoul(argv[3], NULL, 16)))
		return fail("attach");
	printf("READY\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		for (unsigned int key = 0; key < 4; key++) {
			unsigned long long value = 0;

			if (bpf_map_lookup_elem(counters, &key, &value))
				return fail("lookup");
			printf("%llu%c", value, key < 3 ? ' ' : '\n');
		}
		fflush(stdout);
	}
	return 0;
}
