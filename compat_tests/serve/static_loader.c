/* A loader that is linked statically: static_loader OBJECT APP: watch_uri at app_handle; it says `ready`,
 * and what it has counted when its input ends. */
#include <stdio.h>
#include <string.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

int main(int argc, char **argv)
{
	LIBBPF_OPTS(bpf_uprobe_opts, where, .func_name = "app_handle");
	struct bpf_object *object = argc > 2 ? bpf_object__open(argv[1]) : NULL;
	struct bpf_program *one, *watch = NULL;
	long counted[2];
	int zero = 0;

	if (!object)
		return 2;
	bpf_object__for_each_program(one, object)
	{
		if (!strcmp(bpf_program__name(one), "watch_uri"))
			watch = one;
		bpf_program__set_autoload(one, one == watch);
	}
	if (bpf_object__load(object) || !bpf_program__attach_uprobe_opts(watch, -1, argv[2], 0, &where))
		return 1;
	printf("ready\n");
	fflush(stdout);
	while (getchar() != EOF)
		;
	bpf_map_lookup_elem(bpf_object__find_map_fd_by_name(object, ".bss"), &zero, counted);
	printf("%ld %ld\n", counted[0], counted[1]);
	return 0;
}
