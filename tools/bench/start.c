/*
 * start OBJECT TARGET PREFIX COUNT [multi]: attaches the program `empty` of OBJECT to the functions
 * PREFIX0 to PREFIX(COUNT - 1) of TARGET, in every process; all at once with "multi", which takes
 * their offsets from stdin, a line each. Says "ready", then detaches when a line is read.
 * "attach N" and "detach N": ns that each took.
 */
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 4096, LINK_CREATE = 28 };

#define TRACE_UPROBE_MULTI ((enum bpf_attach_type)48)

static struct bpf_link *links[MOST];
static unsigned long offsets[MOST];

/* The part of linux/bpf.h's union bpf_attr that Debian's header does not have yet. */
struct multi {
	unsigned int prog_fd, target_fd, attach_type, flags;
	unsigned long path, offsets, ref_ctr_offsets, cookies;
	unsigned int cnt, multi_flags, pid, reserved;
};

static long now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec * 1000000000L + at.tv_nsec;
}

static int attach_each(struct bpf_program *prog, const char *path, const char *prefix, int count)
{
	char name[64];

	for (int i = 0; i < count; i++) {
		LIBBPF_OPTS(bpf_uprobe_opts, opts, .func_name = name);

		snprintf(name, sizeof(name), "%s%d", prefix, i);
		links[i] = bpf_program__attach_uprobe_opts(prog, -1, path, 0, &opts);
		if (!links[i])
			return -1;
	}
	return 0;
}

static int attach_all(struct bpf_program *prog, const char *path, int count)
{
	struct multi attr = { .prog_fd = (unsigned int)bpf_program__fd(prog),
			      .attach_type = TRACE_UPROBE_MULTI,
			      .path = (unsigned long)path,
			      .offsets = (unsigned long)offsets,
			      .cnt = (unsigned int)count };

	return (int)syscall(SYS_bpf, LINK_CREATE, &attr, sizeof(attr));
}

int main(int argc, char **argv)
{
	int count = argc > 4 ? atoi(argv[4]) : 0, multi = argc > 5, fd = -1;
	struct bpf_object *object = count > 0 && count <= MOST ? bpf_object__open(argv[1]) : NULL;
	struct bpf_program *prog;
	char line[64];
	long began;

	prog = object ? bpf_object__find_program_by_name(object, "empty") : NULL;
	if (!prog)
		return 2;
	if (multi)
		bpf_program__set_expected_attach_type(prog, TRACE_UPROBE_MULTI);
	for (int i = 0; multi && i < count; i++)
		offsets[i] = fgets(line, sizeof(line), stdin) ? strtoul(line, NULL, 0) : 0;
	if (bpf_object__load(object))
		return 1;
	began = now();
	fd = multi ? attach_all(prog, argv[2], count) : attach_each(prog, argv[2], argv[3], count);
	if (fd < 0) {
		fprintf(stderr, "start: %s: %s\n", argv[2], strerror(errno));
		return 1;
	}
	printf("attach %ld\nready\n", now() - began);
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin))
		return 0;
	began = now();
	for (int i = 0; i < count && !multi; i++)
		bpf_link__destroy(links[i]);
	if (multi)
		close(fd);
	printf("detach %ld\n", now() - began);
	bpf_object__close(object);
	return 0;
}
