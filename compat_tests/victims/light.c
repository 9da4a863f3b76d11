/* A loader with a light skeleton: what it made and what that did. LEVEL is the log's; with a second argument
 * the skeleton is told that its program is to be refused. */
#include <errno.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "light.lskel.h"

static char text[1 << 20];

__attribute__((noinline, noclone)) int target(int x)
{
	__asm__ volatile("");
	return x + 1;
}

static int descriptors(void)
{
	struct stat st;
	int n = 0;

	for (int fd = 3; fd < 64; fd++)
		n += !fstat(fd, &st);
	return n;
}

static unsigned long long element(int map, unsigned key)
{
	unsigned long long value = 0;
	union bpf_attr attr = { .map_fd = map, .key = (long)&key, .value = (long)&value };

	return skel_sys_bpf(BPF_MAP_LOOKUP_ELEM, &attr, sizeof(attr)) ? 99 : value;
}

static int name_of(int prog, char *name)
{
	struct bpf_prog_info info = { .type = 0 };
	union bpf_attr attr = {
		.info = { .bpf_fd = prog, .info = (long)&info, .info_len = sizeof(info) }
	};
	int err = skel_sys_bpf(BPF_OBJ_GET_INFO_BY_FD, &attr, sizeof(attr));

	memcpy(name, info.name, sizeof(info.name));
	return err ? -errno : (int)info.nr_map_ids;
}

static int probe(int prog)
{
	struct perf_event_attr attr = { .size = sizeof(attr) };
	FILE *type = fopen("/sys/bus/event_source/devices/uprobe/type", "r");
	extern char __executable_start;
	int fd;

	if (!type || fscanf(type, "%u", &attr.type) != 1)
		return -1;
	fclose(type);
	attr.uprobe_path = (long)"/proc/self/exe";
	attr.probe_offset = (unsigned long)target - (unsigned long)&__executable_start;
	fd = (int)syscall(SYS_perf_event_open, &attr, getpid(), -1, -1, PERF_FLAG_FD_CLOEXEC);
	if (fd < 0 || ioctl(fd, PERF_EVENT_IOC_SET_BPF, prog))
		return -1;
	return ioctl(fd, PERF_EVENT_IOC_ENABLE, 0) ? -1 : fd;
}

static void used(struct light *s)
{
	unsigned long *ring = mmap(NULL, 3 << 12, PROT_READ, MAP_SHARED, s->maps.ring.map_fd, 4096);
	char name[BPF_OBJ_NAME_LEN];
	unsigned parent;
	int maps = name_of(s->progs.on_target.prog_fd, name), event;

	printf("%s uses %d maps\n", name, maps);
	printf("attached %d\n", light__attach(s) ?: s->links.on_enter_fd > 0);
	event = probe(s->progs.on_target.prog_fd);
	printf("probe %d\n", event >= 0);
	target(target(1));
	parent = (unsigned)getppid();
	s->data->step = getpid();
	syscall(SYS_getppid);
	syscall(SYS_getppid);
	printf("hits %llu called %llu parent %d absent %llu text %s wanted %d\n", s->bss->hits,
	       s->bss->called, s->bss->parent == parent, s->data->absent, s->data->text,
	       s->rodata->wanted);
	printf("counts %llu second %llu first %llu ring %lu\n", element(s->maps.counts.map_fd, 9),
	       element(s->maps.second.map_fd, 0), element(s->maps.first.map_fd, 0), ring[0]);
	close(event);
}

int main(int argc, char **argv)
{
	int before, err, level = argc > 1 ? atoi(argv[1]) : 0;
	struct light *s = light__open();
	union bpf_attr any = { .start_id = 0 };

	skel_sys_bpf(BPF_MAP_GET_NEXT_ID, &any, sizeof(any)); /* what a first call opens stays */
	before = descriptors();
	if (!s)
		return 1;
	s->rodata->wanted = argc > 2 ? 1 : 9;
	s->data->step = 5;
	s->ctx.log_level = (unsigned)level;
	s->ctx.log_size = level ? sizeof(text) : 0;
	s->ctx.log_buf = level ? (unsigned long)text : 0;
	err = light__load(s);
	printf("load %d %s", err, strstr(text, "processed ") ?: "\n");
	if (!err)
		used(s);
	if (!err)
		light__destroy(s);
	printf("left %d\n", descriptors() - before);
	return 0;
}
