/*
 * loader OBJECT TARGET: attaches and detaches as it is told, on every process that runs TARGET.
 *
 * Lines on stdin: "PROGRAM FUNCTION e|r|b" attaches at entry, return or both; "detach" takes
 * everything back. Each is answered by "ok" or by "failed: reason".
 */
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

static struct bpf_link *links[2];

static int attach(struct bpf_object *object, const char *path, const char *program,
		  const char *function, int ret)
{
	LIBBPF_OPTS(bpf_uprobe_opts, options, .func_name = function, .retprobe = ret);
	struct bpf_program *found = bpf_object__find_program_by_name(object, program);

	if (!found)
		return -ENOENT;
	links[ret] = bpf_program__attach_uprobe_opts(found, -1, path, 0, &options);
	return links[ret] ? 0 : -errno;
}

static void detach(void)
{
	for (int i = 0; i < 2; i++) {
		bpf_link__destroy(links[i]);
		links[i] = NULL;
	}
}

int main(int argc, char **argv)
{
	char line[128], program[32], function[32], kind;
	struct bpf_object *object;
	int err;

	if (argc != 3)
		return 2;
	object = bpf_object__open_file(argv[1], NULL);
	if (!object || bpf_object__load(object)) {
		fprintf(stderr, "loader: %s: %s\n", argv[1], strerror(errno));
		return 1;
	}
	printf("ok\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		err = 0;
		if (!strcmp(line, "detach\n")) {
			detach();
		} else if (sscanf(line, "%31s %31s %c", program, function, &kind) == 3) {
			if (kind != 'r')
				err = attach(object, argv[2], program, function, 0);
			if (!err && kind != 'e')
				err = attach(object, argv[2], program, function, 1);
			if (err)
				detach();
		} else {
			err = -EINVAL;
		}
		printf(err ? "failed: %s\n" : "ok\n", strerror(-err));
		fflush(stdout);
	}
	detach();
	bpf_object__close(object);
	return 0;
}
