/* loader OBJECT PROGRAM APP PROBE N: the program at a probe of the application, which handles N requests;
 * then what the program has seen. An argument more: at that symbol, as a uprobe. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

/* What libbpf has said of the probe's arguments is rubbish from now on. */
static void scribble(struct bpf_object *object)
{
	int specs = bpf_object__find_map_fd_by_name(object, "__bpf_usdt_specs");
	char spec[208];

	memset(spec, 1, sizeof(spec));
	for (int key = 0; key < 4; key++)
		bpf_map_update_elem(specs, &key, spec, 0);
}

static int fail(const char *what)
{
	printf("%s: %s\n", what, strerror(errno));
	return 1;
}

int main(int argc, char **argv)
{
	LIBBPF_OPTS(bpf_usdt_opts, with, .usdt_cookie = 7);
	LIBBPF_OPTS(bpf_uprobe_opts, named, .func_name = argc > 6 ? argv[6] : NULL);
	struct bpf_object *object = bpf_object__open(argv[1]);
	struct bpf_program *program, *one;
	char command[256];
	long seen[6];
	int zero = 0;

	program = bpf_object__find_program_by_name(object, argv[2]);
	bpf_object__for_each_program(one, object)
	{
		bpf_program__set_autoload(one, one == program);
	}
	if (bpf_object__load(object))
		return fail("not loaded");
	if (argc > 6 ? !bpf_program__attach_uprobe_opts(program, -1, argv[3], 0, &named)
		     : !bpf_program__attach_usdt(program, -1, argv[3], "app", argv[4], &with))
		return fail("not attached");
	if (!strcmp(argv[2], "on_read"))
		scribble(object);
	snprintf(command, sizeof(command), "%s %s", argv[3], argv[5]);
	fflush(stdout);
	if (system(command))
		return fail("application");
	bpf_map_lookup_elem(bpf_object__find_map_fd_by_name(object, ".bss"), &zero, seen);
	printf("%ld %ld %ld %ld %ld %ld\n", seen[0], seen[1], seen[2], seen[3], seen[4], seen[5]);
	return 0;
}
