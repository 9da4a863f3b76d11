/* override_loader OBJECT: attaches all programs by libbpf, says READY; at the end of its input prints
 * the counters. */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
	struct bpf_object *obj = argc == 2 ? bpf_object__open(argv[1]) : NULL;
	struct bpf_program *prog;
	int fd;

	if (!obj || bpf_object__load(obj))
		return 1;
	bpf_object__for_each_program(prog, obj) if (!bpf_program__attach(prog))
	{
		fprintf(stderr, "%s: %s\n", bpf_program__name(prog), strerror(errno));
		return 1;
	}
	puts("READY");
	fflush(stdout);
	while (getchar() != EOF)
		;
	fd = bpf_object__find_map_fd_by_name(obj, "out");
	for (unsigned int i = 0; i < 9; i++) {
		unsigned long long value = 0;

		bpf_map_lookup_elem(fd, &i, &value);
		printf("%llu ", value);
	}
	puts("");
	return 0;
}
