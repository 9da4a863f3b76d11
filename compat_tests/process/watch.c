/*
 * watch OBJECT PROGRAM SYMBOL MAP SIZE ENTRIES: a libbpf loader with one uprobe, at SYMBOL of PROGRAM.
 * Prints READY; each line on stdin prints the MAP's entries of SIZE bytes in hexadecimal, one a line.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fail(const char *what)
{
	perror(what);
	return 1;
}

int main(int argc, char **argv)
{
	LIBBPF_OPTS(bpf_uprobe_opts, options, .func_name = argv[3]);
	struct bpf_object *object;
	struct bpf_program *program;
	unsigned char value[4096];
	char line[16];

	if (argc != 7 || (size_t)atoi(argv[5]) > sizeof(value))
		return 2;
	object = bpf_object__open_file(argv[1], NULL);
	if (!object || bpf_object__load(object))
		return fail("object");
	program = bpf_object__next_program(object, NULL);
	if (!bpf_program__attach_uprobe_opts(program, -1, argv[2], 0, &options))
		return fail("attach");
	printf("READY\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		int fd = bpf_object__find_map_fd_by_name(object, argv[4]);

		for (unsigned int i = 0; i < (unsigned int)atoi(argv[6]); i++) {
			if (bpf_map_lookup_elem(fd, &i, value))
				return fail("lookup");
			for (int at = 0; at < atoi(argv[5]); at++)
				printf("%02x", value[at]);
			printf("\n");
		}
		printf("END\n");
		fflush(stdout);
	}
	return 0;
}
