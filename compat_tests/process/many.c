/*
 * many PROGRAM OFFSET: a static loader of several threads. All but one make maps, write and read an element and
 * close them, as long as the other one attaches a program to the uprobe at OFFSET of PROGRAM, and
 * takes it away. Prints what went wrong, and how often.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { THREADS = 4, ROUNDS = 150, LEAST = 100 };

static int done, wrong, maps;

static long bpf(int cmd, union bpf_attr *attr)
{
	return syscall(SYS_bpf, cmd, attr, sizeof(*attr));
}

static void fail(const char *what)
{
	if (!__atomic_fetch_add(&wrong, 1, __ATOMIC_RELAXED))
		printf("%s: %s\n", what, strerror(errno));
}

static void *make(void *tag)
{
	unsigned long long mine = (uintptr_t)tag, got;
	unsigned int key = 5;

	for (int n = 0; n < LEAST || !__atomic_load_n(&done, __ATOMIC_RELAXED); n++) {
		union bpf_attr attr = {
			.map_type = BPF_MAP_TYPE_HASH, .key_size = 4, .value_size = 8, .max_entries = 8
		};
		long fd = bpf(BPF_MAP_CREATE, &attr);
		union bpf_attr element = { .map_fd = (unsigned int)fd,
					   .key = (uintptr_t)&key,
					   .value = (uintptr_t)&mine };

		if (fd <= 2) {
			fail("map");
			continue;
		}
		if (bpf(BPF_MAP_UPDATE_ELEM, &element))
			fail("update");
		element.value = (uintptr_t)&got;
		if (bpf(BPF_MAP_LOOKUP_ELEM, &element) || got != mine)
			fail("lookup");
		close((int)fd);
		__atomic_fetch_add(&maps, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static unsigned int uprobe_type(void)
{
	char text[16] = "";
	int fd = open("/sys/bus/event_source/devices/uprobe/type", O_RDONLY);

	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
		fail("type");
	close(fd);
	return (unsigned int)atoi(text);
}

static void attach(const char *path, unsigned long offset, unsigned int type, unsigned int prog)
{
	struct perf_event_attr event = {
		.size = sizeof(event), .type = type, .config1 = (uintptr_t)path, .config2 = offset
	};
	int fd = (int)syscall(SYS_perf_event_open, &event, -1, 0, -1, PERF_FLAG_FD_CLOEXEC);
	union bpf_attr attr = { .link_create = { .prog_fd = prog,
						 .target_fd = (unsigned int)fd,
						 .attach_type = BPF_PERF_EVENT } };
	int link = (int)bpf(BPF_LINK_CREATE, &attr);

	if (fd <= 2 || link <= 2)
		fail("attach");
	close(link);
	close(fd);
}

int main(int argc, char **argv)
{
	struct bpf_insn code[] = { { .code = 0xb7 }, { .code = 0x95 } };
	union bpf_attr attr = { .prog_type = BPF_PROG_TYPE_KPROBE,
				.insns = (uintptr_t)code,
				.insn_cnt = 2,
				.license = (uintptr_t) "GPL" };
	unsigned int type = uprobe_type();
	pthread_t threads[THREADS];
	long prog = bpf(BPF_PROG_LOAD, &attr);

	if (argc < 3 || prog < 0)
		return 2;
	for (long i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, make, (void *)(i + 1));
	for (int i = 0; i < ROUNDS; i++)
		attach(argv[1], strtoul(argv[2], NULL, 0), type, (unsigned int)prog);
	__atomic_store_n(&done, 1, __ATOMIC_RELAXED);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	printf("maps %s wrong %d\n", maps < THREADS * LEAST ? "missing" : "made", wrong);
	return 0;
}
