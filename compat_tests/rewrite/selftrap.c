/*
 * selftrap OFFSET: a loader that is its own target, at a function in which nothing but int3 fits, while another
 * thread of it makes bpf(2) all the time. Prints how often the program was called by three calls.
 */
#define _GNU_SOURCE
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/perf_event.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tiny.h"

#define INSN(c, d, s, o, i) \
	((struct bpf_insn){ .code = c, .dst_reg = d, .src_reg = s, .off = o, .imm = i })

static int map, asking = 1;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void *ask(void *arg)
{
	struct bpf_map_info info;
	unsigned int size = sizeof(info);

	while (__atomic_load_n(&asking, __ATOMIC_RELAXED))
		if (bpf_obj_get_info_by_fd(map, &info, &size))
			die("info");
	return arg;
}

/* A ring that is waited for: a thread of the library's looks after it. */
static void wait_for_ring(void)
{
	int ring = bpf_map_create(BPF_MAP_TYPE_RINGBUF, "ring", 0, 0, 4096, NULL);
	struct ring_buffer *buffer = ring_buffer__new(ring, (ring_buffer_sample_fn)ask, NULL, NULL);

	if (!buffer || ring_buffer__poll(buffer, 1))
		die("ring");
}

static int type(void)
{
	FILE *file = fopen("/sys/bus/event_source/devices/uprobe/type", "r");
	int number;

	if (!file || fscanf(file, "%d", &number) != 1)
		die("type");
	fclose(file);
	return number;
}

int main(int argc, char **argv)
{
	struct perf_event_attr event = {
		.size = sizeof(event),
		.type = (unsigned int)type(),
		.config1 = (unsigned long)"/proc/self/exe",
		.config2 = strtoul(argv[argc - 1], NULL, 0),
	};
	unsigned char buf[2];
	unsigned long count = 0;
	int prog, fd, zero = 0;
	pthread_t thread;

	map = bpf_map_create(BPF_MAP_TYPE_ARRAY, "calls", 4, 8, 1, NULL);
	struct bpf_insn code[] = {
		INSN(0x18, 1, 2 /* BPF_PSEUDO_MAP_VALUE */, 0, map),
		INSN(0, 0, 0, 0, 0),
		INSN(0xb7, 0, 0, 0, 1),
		INSN(0xdb, 1, 0, 0, 0), /* lock *(u64 *)r1 += r0 */
		INSN(0x95, 0, 0, 0, 0),
	};

	wait_for_ring();
	prog = bpf_prog_load(BPF_PROG_TYPE_KPROBE, "calls", "GPL", code, 5, NULL);
	fd = (int)syscall(SYS_perf_event_open, &event, -1, 0, -1, PERF_FLAG_FD_CLOEXEC);
	if (pthread_create(&thread, NULL, ask, NULL))
		die("thread");
	if (prog < 0 || fd < 0 || bpf_link_create(prog, fd, BPF_PERF_EVENT, NULL) < 0)
		die("link");
	for (int i = 0; i < 3; i++)
		if (tiny(buf, 1) != 2)
			die("tiny");
	__atomic_store_n(&asking, 0, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	if (bpf_map_lookup_elem(map, &zero, &count))
		die("lookup");
	printf("%lu\n", count);
	return 0;
}
