/* Loads an object with libbpf, all its programs but those whose target the kernel's BTF lacks. */
#include <bpf/libbpf.h>
#include <linux/bpf.h>
#include <string.h>

static void choose(struct bpf_program *prog)
{
	const char *target = strchr(bpf_program__section_name(prog), '/');
	enum bpf_prog_type type = bpf_program__type(prog);
	int absent = 0;

	if ((type == BPF_PROG_TYPE_TRACING || type == BPF_PROG_TYPE_LSM) && target)
		absent = libbpf_find_vmlinux_btf_id(target + 1,
						    bpf_program__expected_attach_type(prog)) <= 0;
	bpf_program__set_autoload(prog, !absent);
}

/* Sizes that a tool sets before it loads. */
static void settle(struct bpf_map *map)
{
	enum bpf_map_type type = bpf_map__type(map);

	bpf_map__set_pin_path(map, NULL);
	if (type == BPF_MAP_TYPE_STACK_TRACE && !bpf_map__value_size(map))
		bpf_map__set_value_size(map, 127 * 8);
	if (!bpf_map__max_entries(map) && type != BPF_MAP_TYPE_PERF_EVENT_ARRAY)
		bpf_map__set_max_entries(map, type == BPF_MAP_TYPE_RINGBUF ? 4096 : 16);
}

int main(int argc, char **argv)
{
	struct bpf_object *object = argc > 1 ? bpf_object__open_file(argv[1], NULL) : NULL;
	struct bpf_program *prog;
	struct bpf_map *map;

	libbpf_set_print(NULL);
	if (!object)
		return 1;
	bpf_object__for_each_program(prog, object) choose(prog);
	bpf_object__for_each_map(map, object) settle(map);
	return bpf_object__load(object) ? 1 : 0;
}
