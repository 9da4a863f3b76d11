/*
 * badcalls: bpf(2), perf_event_open(2) and their ioctls asked wrongly, one case a line:
 * "NAME ERRNO" (0: it succeeded). Afterwards one right call each, so that the host program is
 * seen to go on. Ends with status 0.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define INSN(c, d, s, o, i) \
	{ \
		.code = (c), .dst_reg = (d), .src_reg = (s), .off = (o), .imm = (i) \
	}

static const struct bpf_insn good[] = { INSN(0xb7, 0, 0, 0, 0), INSN(0x95, 0, 0, 0, 0) };
static const struct bpf_insn no_exit[] = { INSN(0xb7, 0, 0, 0, 0) };
static const struct bpf_insn uninit[] = { INSN(0xbf, 0, 3, 0, 0), INSN(0x95, 0, 0, 0, 0) };
static const struct bpf_insn bad_opcode[] = { INSN(0xff, 0, 0, 0, 0), INSN(0x95, 0, 0, 0, 0) };
static const struct bpf_insn bad_helper[] = { INSN(0x85, 0, 0, 0, 9999), INSN(0x95, 0, 0, 0, 0) };
static const struct bpf_insn endless[] = { INSN(0xb7, 0, 0, 0, 0), INSN(0x05, 0, 0, -1, 0),
					   INSN(0x95, 0, 0, 0, 0) };
static const struct bpf_insn wild[] = { INSN(0xb7, 1, 0, 0, 64), INSN(0x79, 0, 1, 0, 0),
					INSN(0x95, 0, 0, 0, 0) };
static const struct bpf_insn stack_out[] = { INSN(0x7a, 10, 0, -520, 1), INSN(0xb7, 0, 0, 0, 0),
					     INSN(0x95, 0, 0, 0, 0) };
static const struct bpf_insn no_map[] = { INSN(0x18, 1, 1, 0, 999), INSN(0, 0, 0, 0, 0),
					  INSN(0xb7, 0, 0, 0, 0), INSN(0x95, 0, 0, 0, 0) };

static long bpf(int cmd, const void *attr, unsigned int size)
{
	return syscall(__NR_bpf, cmd, attr, size);
}

static long say(const char *name, long result)
{
	printf("%s %d\n", name, result < 0 ? errno : 0);
	return result;
}

static long map_create(const char *name, unsigned int type, unsigned int key, unsigned int value,
		       unsigned int entries, unsigned int flags)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.map_type = type;
	attr.key_size = key;
	attr.value_size = value;
	attr.max_entries = entries;
	attr.map_flags = flags;
	return say(name, bpf(BPF_MAP_CREATE, &attr, sizeof(attr)));
}

static long element(const char *name, int cmd, int fd, const void *key, const void *value,
		    unsigned long flags)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.map_fd = (unsigned int)fd;
	attr.key = (unsigned long)key;
	attr.value = (unsigned long)value;
	attr.flags = flags;
	return say(name, bpf(cmd, &attr, sizeof(attr)));
}

/* A value that is asked for lies where nothing may be written. */
static void members(void)
{
	static const unsigned long in = 7, out = 8;
	int fd = (int)map_create("bloom filter", BPF_MAP_TYPE_BLOOM_FILTER, 0, 8, 64, BPF_F_ZERO_SEED);

	element("new member", BPF_MAP_UPDATE_ELEM, fd, NULL, &in, BPF_ANY);
	element("a member", BPF_MAP_LOOKUP_ELEM, fd, NULL, &in, 0);
	element("no member", BPF_MAP_LOOKUP_ELEM, fd, NULL, &out, 0);
	element("member at a bad pointer", BPF_MAP_LOOKUP_ELEM, fd, NULL, (void *)8, 0);
}

static long prog_load(const char *name, const struct bpf_insn *insns, unsigned long bytes,
		      unsigned int type, const char *license)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.prog_type = type;
	attr.insns = (unsigned long)insns;
	attr.insn_cnt = (unsigned int)(bytes / sizeof(*insns));
	attr.license = (unsigned long)license;
	return say(name, bpf(BPF_PROG_LOAD, &attr, sizeof(attr)));
}

static void maps(void)
{
	unsigned int key = 1, next;
	unsigned long value = 7;
	int fd, array;

	map_create("map of no type", 0, 4, 8, 1, 0);
	map_create("map of an unknown type", 9999, 4, 8, 1, 0);
	map_create("array with 8-byte keys", BPF_MAP_TYPE_ARRAY, 8, 8, 1, 0);
	map_create("array of nothing", BPF_MAP_TYPE_ARRAY, 4, 8, 0, 0);
	map_create("hash without keys", BPF_MAP_TYPE_HASH, 0, 8, 1, 0);
	map_create("hash with unknown flags", BPF_MAP_TYPE_HASH, 4, 8, 1, 1u << 30);
	map_create("hash of huge values", BPF_MAP_TYPE_HASH, 4, 0x7fffffff, 1, 0);
	map_create("ring buffer of an odd size", BPF_MAP_TYPE_RINGBUF, 0, 0, 4097, 0);
	fd = (int)map_create("hash", BPF_MAP_TYPE_HASH, 4, 8, 1, 0);
	array = (int)map_create("array", BPF_MAP_TYPE_ARRAY, 4, 8, 1, 0);
	element("lookup in descriptor -1", BPF_MAP_LOOKUP_ELEM, -1, &key, &value, 0);
	element("lookup in stdin", BPF_MAP_LOOKUP_ELEM, 0, &key, &value, 0);
	element("lookup of an absent key", BPF_MAP_LOOKUP_ELEM, fd, &key, &value, 0);
	element("lookup by a bad pointer", BPF_MAP_LOOKUP_ELEM, fd, (void *)8, &value, 0);
	element("update with an unknown flag", BPF_MAP_UPDATE_ELEM, fd, &key, &value, 77);
	element("update that must exist", BPF_MAP_UPDATE_ELEM, fd, &key, &value, BPF_EXIST);
	element("update from a bad pointer", BPF_MAP_UPDATE_ELEM, fd, &key, (void *)8, 0);
	element("update", BPF_MAP_UPDATE_ELEM, fd, &key, &value, BPF_ANY);
	element("update that must be new", BPF_MAP_UPDATE_ELEM, fd, &key, &value, BPF_NOEXIST);
	element("lookup to a bad pointer", BPF_MAP_LOOKUP_ELEM, fd, &key, (void *)8, 0);
	element("next key of the last key", BPF_MAP_GET_NEXT_KEY, fd, &key, &next, 0);
	key = 2;
	element("update of a full hash", BPF_MAP_UPDATE_ELEM, fd, &key, &value, BPF_ANY);
	element("delete of an absent key", BPF_MAP_DELETE_ELEM, fd, &key, NULL, 0);
	element("delete from an array", BPF_MAP_DELETE_ELEM, array, &key, NULL, 0);
	element("update beyond an array", BPF_MAP_UPDATE_ELEM, array, &key, &value, BPF_ANY);
	element("lookup", BPF_MAP_LOOKUP_ELEM, fd, (key = 1, &key), &value, 0);
}

static void programs(void)
{
	unsigned int socket = BPF_PROG_TYPE_SOCKET_FILTER;

	prog_load("program of nothing", good, 0, socket, "GPL");
	prog_load("program at a bad pointer", (void *)8, sizeof(good), socket, "GPL");
	prog_load("program with a bad licence pointer", good, sizeof(good), socket, (void *)8);
	prog_load("program of an unknown type", good, sizeof(good), 9999, "GPL");
	prog_load("program without exit", no_exit, sizeof(no_exit), socket, "GPL");
	prog_load("program that reads a register never set", uninit, sizeof(uninit), socket, "GPL");
	prog_load("program with an unknown opcode", bad_opcode, sizeof(bad_opcode), socket, "GPL");
	prog_load("program with an unknown helper", bad_helper, sizeof(bad_helper), socket, "GPL");
	prog_load("program that never ends", endless, sizeof(endless), socket, "GPL");
	prog_load("program that reads a number", wild, sizeof(wild), socket, "GPL");
	prog_load("program that writes below its stack", stack_out, sizeof(stack_out), socket, "GPL");
	prog_load("program with a map that is not open", no_map, sizeof(no_map), socket, "GPL");
	prog_load("program", good, sizeof(good), socket, "GPL");
}

static void commands(void)
{
	unsigned char large[256] = { 0 };
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	say("unknown command", bpf(12345, &attr, sizeof(attr)));
	say("attr at a bad pointer", bpf(BPF_MAP_CREATE, (void *)8, sizeof(attr)));
	say("attr of no bytes", bpf(BPF_MAP_CREATE, &attr, 0));
	large[200] = 1;
	say("attr with a tail that is not zero", bpf(BPF_MAP_CREATE, large, sizeof(large)));
	say("attr beyond a page", bpf(BPF_MAP_CREATE, &attr, 5000));
	attr.link_create.prog_fd = (unsigned int)-1;
	attr.link_create.target_fd = (unsigned int)-1;
	attr.link_create.attach_type = BPF_PERF_EVENT;
	say("link of descriptor -1", bpf(BPF_LINK_CREATE, &attr, sizeof(attr)));
	memset(&attr, 0, sizeof(attr));
	attr.info.bpf_fd = (unsigned int)-1;
	say("information on descriptor -1", bpf(BPF_OBJ_GET_INFO_BY_FD, &attr, sizeof(attr)));
	memset(&attr, 0, sizeof(attr));
	attr.test.prog_fd = 0;
	say("test run of stdin", bpf(BPF_PROG_TEST_RUN, &attr, sizeof(attr)));
	memset(&attr, 0, sizeof(attr));
	attr.btf = (unsigned long)large;
	attr.btf_size = sizeof(large);
	say("BTF that is none", bpf(BPF_BTF_LOAD, &attr, sizeof(attr)));
}

static long event(const char *name, unsigned int type, const char *path, unsigned long offset, int cpu)
{
	struct perf_event_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.size = sizeof(attr);
	attr.type = type;
	attr.config1 = (unsigned long)path;
	attr.config2 = offset;
	return say(name, syscall(__NR_perf_event_open, &attr, -1, cpu, -1, PERF_FLAG_FD_CLOEXEC));
}

static unsigned int uprobe_type(void)
{
	unsigned int type = 0;
	FILE *file = fopen("/sys/bus/event_source/devices/uprobe/type", "r");

	if (!file || fscanf(file, "%u", &type) != 1)
		type = 0;
	if (file)
		fclose(file);
	return type;
}

static void events(const char *self)
{
	unsigned int type = uprobe_type();
	int fd;

	event("uprobe in an absent file", type, "/no/such/file", 0, 0);
	event("uprobe in a folder", type, "/tmp", 0, 0);
	event("uprobe at a bad pointer", type, (void *)8, 0, 0);
	event("uprobe beyond the file", type, self, 1ul << 40, 0);
	event("event of an unknown type", 7777, self, 0, 0);
	event("event on CPU 4000", type, self, 0, 4000);
	fd = (int)event("uprobe", type, self, 0x1000, 0);
	say("SET_BPF of descriptor -1", ioctl(fd, PERF_EVENT_IOC_SET_BPF, -1));
	say("SET_BPF of stdin", ioctl(fd, PERF_EVENT_IOC_SET_BPF, 0));
	say("unknown ioctl", ioctl(fd, 0x2477, 0));
	say("SET_BPF of stdin by syscall()", syscall(__NR_ioctl, fd, PERF_EVENT_IOC_SET_BPF, 0));
	say("ENABLE by syscall()", syscall(__NR_ioctl, fd, PERF_EVENT_IOC_ENABLE, 0));
	say("an ioctl for terminals by syscall()", syscall(__NR_ioctl, fd, TIOCGPGRP, &type));
	say("close", close(fd));
}

int main(int argc, char **argv)
{
	(void)argc;
	maps();
	members();
	programs();
	commands();
	events(argv[0]);
	return 0;
}
