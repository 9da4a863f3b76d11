/*
 * What loaders only try: maps of a kernel's interface, what is attached to an array, test runs that the kernel does
 * not have. Prints the errors.
 */
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>

enum { VTYPE_BTF_OBJ_FD = 1 << 15 }; /* BPF_F_VTYPE_BTF_OBJ_FD, newer than Debian's linux/bpf.h */

static void structure(const char *what, unsigned int key, unsigned int entries, unsigned int flags)
{
	LIBBPF_OPTS(bpf_map_create_opts, opts, .btf_vmlinux_value_type_id = 1, .map_flags = flags);

	printf("%s %d\n", what, bpf_map_create(BPF_MAP_TYPE_STRUCT_OPS, "ops", key, 4, entries, &opts));
}

static int program(enum bpf_prog_type type, enum bpf_attach_type where, int id)
{
	LIBBPF_OPTS(bpf_prog_load_opts, opts, .expected_attach_type = where,
		    .attach_btf_id = (unsigned int)id);
	const struct bpf_insn code[] = { { .code = 0xb7 }, { .code = 0x95 } };
	int prog = bpf_prog_load(type, "asked", "GPL", code, 2, &opts);

	if (prog < 0)
		printf("load %d\n", prog);
	return prog;
}

static void runs(const char *what, int prog, unsigned int flags)
{
	LIBBPF_OPTS(bpf_test_run_opts, opts, .flags = flags);

	printf("%s %d\n", what, bpf_prog_test_run_opts(prog, &opts));
}

int main(void)
{
	int array = bpf_map_create(BPF_MAP_TYPE_ARRAY, "array", 4, 4, 1, NULL), tracing;
	unsigned int ids[4], count = 4;

	if (libbpf_probe_bpf_map_type(BPF_MAP_TYPE_STRUCT_OPS, NULL) < 0)
		printf("probe\n");
	structure("key", 8, 1, 0);
	structure("entries", 4, 2, 0);
	structure("flags", 4, 1, BPF_F_NO_PREALLOC);
	structure("types of no descriptor", 4, 1, VTYPE_BTF_OBJ_FD);
	printf("query %d\n", bpf_prog_query(array, BPF_SK_SKB_STREAM_VERDICT, 0, NULL, ids, &count));
	tracing = program(BPF_PROG_TYPE_TRACING, BPF_TRACE_RAW_TP,
			  libbpf_find_vmlinux_btf_id("sys_enter", BPF_TRACE_RAW_TP));
	runs("tracing", tracing, 0);
	runs("tracing with flags", tracing, 1);
	runs("lwt_seg6local", program(BPF_PROG_TYPE_LWT_SEG6LOCAL, 0, 0), 0);
	return 0;
}
