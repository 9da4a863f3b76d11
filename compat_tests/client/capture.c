/*
 * Loads an object with libbpf and prints what it hands to bpf(2), an event a line:
 *
 *	btf HEX | map FD ATTR | update FD KEY VALUE | freeze FD | prog NAME ATTR INSNS FUNC LINE LICENSE
 *	dup FD FD: the second is the first from now on (libbpf 1.5 gives a map its descriptor before it
 *	makes it)
 *
 * What libbpf tries the kernel with is left out. Named programs are not loaded: what they are
 * given is the question, not whether the verifier likes it. Programs whose target is not in the
 * kernel's BTF are left out ("skip NAME").
 * A second argument is the BTF that CO-RE relocates against.
 */
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/bpf.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MAX_FD = 4096 };
static struct {
	unsigned type, key, value;
} maps[MAX_FD];

static long raw(long n, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}

static void hex(const void *data, size_t size)
{
	putchar(' ');
	if (!data || !size)
		putchar('-');
	for (size_t i = 0; data && i < size; i++)
		printf("%02x", ((const unsigned char *)data)[i]);
}

static const void *at(__u64 address)
{
	return (const void *)(unsigned long)address;
}

/* of what libbpf tries the kernel with */
static bool of_a_probe(const char *name)
{
	return !strncmp(name, "libbpf_", 7) || !strcmp(name, "det_arg_ctx");
}

static void tell(unsigned cmd, const union bpf_attr *given, unsigned size, long ret)
{
	union bpf_attr copy = { 0 }, *a = &copy;
	unsigned fd;

	memcpy(&copy, given, size < sizeof(copy) ? size : sizeof(copy));
	fd = a->map_fd;
	switch (cmd) {
	case BPF_BTF_LOAD:
		printf("btf");
		hex(at(a->btf), a->btf_size);
		break;
	case BPF_MAP_CREATE:
		if (of_a_probe(a->map_name))
			return;
		if (ret >= 0 && ret < MAX_FD)
			maps[ret] = (typeof(maps[0])){ a->map_type, a->key_size, a->value_size };
		printf("map %ld", ret);
		hex(a, size);
		break;
	case BPF_MAP_UPDATE_ELEM:
		if (fd >= MAX_FD)
			return;
		printf("update %u", fd);
		hex(at(a->key), maps[fd].key);
		hex(at(a->value), maps[fd].value);
		break;
	case BPF_MAP_FREEZE: printf("freeze %u", fd); break;
	case BPF_PROG_LOAD:
		printf("prog %s", a->prog_name);
		hex(a, size);
		hex(at(a->insns), a->insn_cnt * 8UL);
		hex(at(a->func_info), (size_t)a->func_info_cnt * a->func_info_rec_size);
		hex(at(a->line_info), (size_t)a->line_info_cnt * a->line_info_rec_size);
		hex(at(a->license), strlen(at(a->license)));
		break;
	default: return;
	}
	putchar('\n');
}

static long on_bpf(unsigned cmd, union bpf_attr *a, unsigned size)
{
	long ret;

	if (cmd == BPF_PROG_LOAD && a->prog_name[0] && !of_a_probe(a->prog_name))
		ret = raw(SYS_memfd_create, (long)"prog", 0, 0, 0, 0, 0);
	else if (cmd == BPF_MAP_UPDATE_ELEM && a->map_fd < MAX_FD &&
		 maps[a->map_fd].type == BPF_MAP_TYPE_PROG_ARRAY)
		ret = 0;
	else
		ret = raw(SYS_bpf, cmd, (long)a, size, 0, 0, 0);
	/* sizes that the tool sets before it loads */
	if (cmd == BPF_MAP_CREATE && ret < 0 && !of_a_probe(a->map_name))
		ret = raw(SYS_memfd_create, (long)"map", 0, 0, 0, 0, 0);
	if (cmd != BPF_PROG_LOAD || (a->prog_name[0] && !of_a_probe(a->prog_name)))
		tell(cmd, a, size, ret);
	return ret;
}

static long on_dup(unsigned old, unsigned new, long flags)
{
	long ret = raw(SYS_dup3, old, new, flags, 0, 0, 0);

	if (ret >= 0 && old < MAX_FD && new < MAX_FD) {
		maps[new] = maps[old];
		printf("dup %u %u\n", old, new);
	}
	return ret;
}

long syscall(long number, ...)
{
	long arg[6], ret;
	va_list list;

	va_start(list, number);
	for (int i = 0; i < 6; i++)
		arg[i] = va_arg(list, long);
	va_end(list);
	switch (number) {
	case SYS_bpf: ret = on_bpf((unsigned)arg[0], (union bpf_attr *)arg[1], (unsigned)arg[2]); break;
	case SYS_dup3: ret = on_dup((unsigned)arg[0], (unsigned)arg[1], arg[2]); break;
	default: ret = raw(number, arg[0], arg[1], arg[2], arg[3], arg[4], arg[5]);
	}
	if (ret < 0 && ret > -4096) {
		errno = (int)-ret;
		return -1;
	}
	return ret;
}

static int print(enum libbpf_print_level level, const char *format, va_list args)
{
	return level == LIBBPF_WARN ? vfprintf(stderr, format, args) : 0;
}

static void choose(struct bpf_program *prog)
{
	const char *target = strchr(bpf_program__section_name(prog), '/');
	enum bpf_prog_type type = bpf_program__type(prog);
	bool by_btf = type == BPF_PROG_TYPE_TRACING || type == BPF_PROG_TYPE_LSM;

	bpf_program__set_autoload(prog, true);
	if (by_btf && target &&
	    libbpf_find_vmlinux_btf_id(target + 1, bpf_program__expected_attach_type(prog)) <= 0) {
		bpf_program__set_autoload(prog, false);
		printf("skip %s\n", bpf_program__name(prog));
	}
}

int main(int argc, char **argv)
{
	LIBBPF_OPTS(bpf_object_open_opts, options);
	struct bpf_object *object;
	struct bpf_program *prog;
	struct bpf_map *map;

	if (argc < 2 || argc > 3)
		return 2;
	options.btf_custom_path = argc == 3 ? argv[2] : NULL;
	libbpf_set_print(print);
	object = bpf_object__open_file(argv[1], &options);
	if (!object)
		return 1;
	bpf_object__for_each_program(prog, object) choose(prog);
	bpf_object__for_each_map(map, object) bpf_map__set_pin_path(map, NULL);
	if (bpf_object__load(object))
		return 1;
	printf("loaded\n");
	return 0;
}
