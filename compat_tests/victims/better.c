/*
 * better OBJECT PROGRAM SALT: better.bpf.o with that constant, on v_value of every process that runs
 * PROGRAM.
 *
 * Prints READY when it is attached, then obeys stdin, a line an order, a line an answer: "report":
 * the counts, and the sum over threads; "code": the machine code that it is told of, in
 * hexadecimal; "detach", "attach".
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct bpf_object *object;
static struct bpf_program *program;
static struct bpf_link *probe;

static int fail(const char *what)
{
	fprintf(stderr, "better: %s: %s\n", what, strerror(errno));
	return 1;
}

static int attach(const char *path)
{
	LIBBPF_OPTS(bpf_uprobe_opts, options, .func_name = "v_value");

	probe = bpf_program__attach_uprobe_opts(program, -1, path, 0, &options);
	return probe ? 0 : fail("attach");
}

static int report(void)
{
	int counts = bpf_object__find_map_fd_by_name(object, "counts");
	int threads = bpf_object__find_map_fd_by_name(object, "by_thread");
	unsigned int zero = 0, key = 0, *last = NULL;
	unsigned long long found[3], value, sum = 0;

	if (bpf_map_lookup_elem(counts, &zero, found))
		return fail("lookup");
	while (!bpf_map_get_next_key(threads, last, &key)) {
		last = &key;
		if (!bpf_map_lookup_elem(threads, &key, &value))
			sum += value;
	}
	printf("hits %llu loop %llu callback %llu threads %llu\n", found[0], found[1], found[2], sum);
	return 0;
}

static int code(void)
{
	static unsigned char text[1 << 16];
	struct bpf_prog_info info = { .jited_prog_len = sizeof(text),
				      .jited_prog_insns = (unsigned long long)text };
	unsigned int size = sizeof(info);

	if (bpf_obj_get_info_by_fd(bpf_program__fd(program), &info, &size))
		return fail("information");
	printf("code ");
	for (unsigned int i = 0; i < info.jited_prog_len; i++)
		printf("%02x", text[i]);
	printf("\n");
	return 0;
}

static int obey(const char *line, const char *path)
{
	int err = 0;

	if (!strncmp(line, "report", 6))
		return report();
	if (!strncmp(line, "code", 4))
		return code();
	if (!strncmp(line, "detach", 6)) {
		err = bpf_link__destroy(probe);
		probe = NULL;
	} else if (!strncmp(line, "attach", 6)) {
		err = attach(path);
	} else {
		return 2;
	}
	printf("%s", line);
	return err;
}

int main(int argc, char **argv)
{
	struct bpf_map *constants;
	unsigned long long salt;
	char line[64];
	int err = 0;

	if (argc != 4)
		return 2;
	object = bpf_object__open_file(argv[1], NULL);
	if (!object)
		return fail("open");
	constants = bpf_object__find_map_by_name(object, ".rodata");
	salt = strtoull(argv[3], NULL, 0);
	if (!constants || bpf_map__set_initial_value(constants, &salt, sizeof(salt)))
		return fail("constant");
	if (bpf_object__load(object))
		return fail("load");
	program = bpf_object__find_program_by_name(object, "on_value");
	if (attach(argv[2]))
		return 1;
	printf("READY\n");
	fflush(stdout);
	while (!err && fgets(line, sizeof(line), stdin)) {
		err = obey(line, argv[2]);
		fflush(stdout);
	}
	return err;
}
