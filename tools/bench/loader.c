/*
 * loader OBJECT TARGET: attaches and detaches as it is told, on every process that runs TARGET.
 *
 * Lines on stdin: "PROGRAM FUNCTION e|r|b" attaches at entry, return or both, "PROGRAM NAME u" to
 * the USDT probe bench:NAME, "PROGRAM NAME t" to the tracepoint syscalls:sys_enter_NAME; "detach"
 * takes everything back; "drain" empties the ring buffer. Each is answered by "ok" or by
 * "failed: reason".
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

static int attach_other(struct bpf_object *object, const char *path, const char *program,
			const char *name, char kind)
{
	struct bpf_program *found = bpf_object__find_program_by_name(object, program);
	char event[64];

	if (!found)
		return -ENOENT;
	snprintf(event, sizeof(event), "sys_enter_%s", name);
	links[0] = kind == 'u' ? bpf_program__attach_usdt(found, -1, path, "bench", name, NULL)
			       : bpf_program__attach_tracepoint(found, "syscalls", event);
	return links[0] ? 0 : -errno;
}

static int record(void *ctx, void *data, size_t size)
{
	(void)ctx, (void)data, (void)size;
	return 0;
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
	struct ring_buffer *ring;
	int err;

	if (argc != 3)
		return 2;
	object = bpf_object__open_file(argv[1], NULL);
	if (!object || bpf_object__load(object)) {
		fprintf(stderr, "loader: %s: %s\n", argv[1], strerror(errno));
		return 1;
	}
	ring = ring_buffer__new(bpf_object__find_map_fd_by_name(object, "records"), record, NULL, NULL);
	if (!ring) {
		perror("loader: ring buffer");
		return 1;
	}
	printf("ok\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		err = 0;
		if (!strcmp(line, "detach\n")) {
			detach();
		} else if (!strcmp(line, "drain\n")) {
			err = ring_buffer__consume(ring);
			err = err < 0 ? err : 0;
		} else if (sscanf(line, "%31s %31s %c", program, function, &kind) == 3) {
			if (kind == 'u' || kind == 't')
				err = attach_other(object, argv[2], program, function, kind);
			else if (kind != 'r')
				err = attach(object, argv[2], program, function, 0);
			if (!err && (kind == 'r' || kind == 'b'))
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
	ring_buffer__free(ring);
	bpf_object__close(object);
	return 0;
}
