/*
 * cycles OBJECT FILE OFFSET PID: attaches to the process PID, at that offset (hexadecimal) of FILE
 * and at all its system calls; "READY", or the reason why not and status 1. Then for each line of
 * stdin the three counters of cycles.bpf.c.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fail(const char *what)
{
	fprintf(stderr, "cycles: %s: %s\n", what, strerror(errno));
	return 1;
}

static struct bpf_program *named(const struct bpf_object *object, const char *name)
{
	return bpf_object__find_program_by_name(object, name);
}

int main(int argc, char **argv)
{
	struct bpf_object *object = argc == 5 ? bpf_object__open_file(argv[1], NULL) : NULL;
	unsigned int key = 3;
	unsigned long long value;
	size_t offset;
	char line[64];
	int counters, pid;

	if (!object || bpf_object__load(object))
		return fail("load");
	offset = strtoul(argv[3], NULL, 16);
	pid = atoi(argv[4]);
	value = (unsigned int)pid;
	counters = bpf_object__find_map_fd_by_name(object, "counters");
	if (bpf_map_update_elem(counters, &key, &value, 0))
		return fail("update");
	if (!bpf_program__attach_uprobe(named(object, "on_entry"), 0, pid, argv[2], offset) ||
	    !bpf_program__attach_uprobe(named(object, "on_return"), 1, pid, argv[2], offset) ||
	    !bpf_program__attach_tracepoint(named(object, "on_call"), "raw_syscalls", "sys_enter"))
		return fail("attach");
	printf("READY\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		for (key = 0; key < 3; key++) {
			if (bpf_map_lookup_elem(counters, &key, &value))
				return fail("lookup");
			printf("%llu%c", value, key < 2 ? ' ' : '\n');
		}
		fflush(stdout);
	}
	return 0;
}
