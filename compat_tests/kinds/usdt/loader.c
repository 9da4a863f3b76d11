/*
 * loader OBJECT PATH PROVIDER NAME...: libbpf attaches on_function to USDT probes in every process,
 * the first with cookie 1. Prints READY; at the end of stdin what has been counted, a line
 * "cookie name line count" each.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

struct call {
	char name[32];
	long line;
	long cookie;
};

static int fail(const char *what)
{
	fprintf(stderr, "loader: %s: %s\n", what, strerror(errno));
	return 1;
}

int main(int argc, char **argv)
{
	struct bpf_object *object = argc > 4 ? bpf_object__open_file(argv[1], NULL) : NULL;
	struct bpf_program *program;
	struct call call, *before = NULL;
	struct bpf_link *links[16];
	LIBBPF_OPTS(bpf_usdt_opts, options);
	char line[16];
	long count;
	int fd;

	if (!object || bpf_object__load(object))
		return fail("load");
	program = bpf_object__find_program_by_name(object, "on_function");
	for (int i = 4; i < argc && i < 16; i++) {
		options.usdt_cookie = i - 3;
		links[i] = bpf_program__attach_usdt(program, -1, argv[2], argv[3], argv[i], &options);
		if (!links[i])
			return fail("attach");
	}
	puts("READY");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin))
		;
	fd = bpf_object__find_map_fd_by_name(object, "calls");
	while (!bpf_map_get_next_key(fd, before, &call)) {
		before = &call;
		if (bpf_map_lookup_elem(fd, &call, &count))
			return fail("lookup");
		printf("%ld %s %ld %ld\n", call.cookie, call.name, call.line, count);
	}
	for (int i = 4; i < argc && i < 16; i++)
		bpf_link__destroy(links[i]);
	bpf_object__close(object);
	return 0;
}
