/*
 * loader PROGRAM OFFSET COUNT: a loader made of raw system calls, to be linked statically.
 *
 * Makes an array, a ring buffer, a hash and a perf event array with a ring; loads a program that counts into the
 * array, sends a record to both rings and counts by thread in the hash; attaches it to the uprobe
 * at OFFSET of PROGRAM, with "ioctl" as the last argument by PERF_EVENT_IOC_SET_BPF, else by a
 * link. Prints READY, then waits for COUNT records on each ring with epoll and prints what there is. With "kin" it
 * starts PROGRAM itself afterwards, for COUNT calls, with "both" also before it attaches, half of them each. "own": the
 * uprobe is of its own process alone. "lift" in the place of PROGRAM: it asks for locked memory, and does no more.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, RING = 1 << 16, PERF_PAGES = 8 };

#define INSN(c, d, s, o, i) \
	((struct bpf_insn){ .code = c, .dst_reg = d, .src_reg = s, .off = o, .imm = i })
#define MAP_FD(d, fd) INSN(0x18, d, 1, 0, fd), INSN(0, 0, 0, 0, 0)
#define CALL(n) INSN(0x85, 0, 0, 0, n)

static void die(const char *what)
{
	printf("%s: %s\n", what, strerror(errno));
	exit(1);
}

static long bpf(int cmd, union bpf_attr *attr)
{
	return syscall(SYS_bpf, cmd, attr, sizeof(*attr));
}

static int map(int type, int key, int value, int entries)
{
	union bpf_attr attr = {
		.map_type = type, .key_size = key, .value_size = value, .max_entries = entries
	};
	long fd;

	memcpy(attr.map_name, "static", 7);
	fd = bpf(BPF_MAP_CREATE, &attr);
	if (fd < 0)
		die("map");
	return (int)fd;
}

static int program(int array, int ring, int hash, int perf)
{
	static char log[4096];
	struct bpf_insn code[] = {
		INSN(0xbf, 6, 1, 0, 0), /* r6 = ctx */
		CALL(14), /* get_current_pid_tgid */
		INSN(0x7b, 10, 0, -16, 0), /* *(r10 - 16) = r0 */
		INSN(0x62, 10, 0, -4, 0), /* *(u32 *)(r10 - 4) = 0 */
		MAP_FD(1, array),
		INSN(0xbf, 2, 10, 0, 0),
		INSN(0x07, 2, 0, 0, -4),
		CALL(1), /* map_lookup_elem */
		INSN(0x15, 0, 0, 2, 0), /* if (!r0) goto +2 */
		INSN(0xb7, 1, 0, 0, 1),
		INSN(0xdb, 0, 1, 0, 0), /* lock *(u64 *)r0 += 1 */
		MAP_FD(1, ring),
		INSN(0xbf, 2, 10, 0, 0),
		INSN(0x07, 2, 0, 0, -16),
		INSN(0xb7, 3, 0, 0, 8),
		INSN(0xb7, 4, 0, 0, 0),
		CALL(130), /* ringbuf_output */
		MAP_FD(1, hash),
		INSN(0xbf, 2, 10, 0, 0),
		INSN(0x07, 2, 0, 0, -16),
		INSN(0xbf, 3, 10, 0, 0),
		INSN(0x07, 3, 0, 0, -16),
		INSN(0xb7, 4, 0, 0, 0),
		CALL(2), /* map_update_elem */
		INSN(0xbf, 1, 6, 0, 0),
		MAP_FD(2, perf),
		INSN(0x18, 3, 0, 0, -1), /* BPF_F_CURRENT_CPU */
		INSN(0, 0, 0, 0, 0),
		INSN(0xbf, 4, 10, 0, 0),
		INSN(0x07, 4, 0, 0, -16),
		INSN(0xb7, 5, 0, 0, 8),
		CALL(25), /* perf_event_output */
		INSN(0xb7, 0, 0, 0, 0),
		INSN(0x95, 0, 0, 0, 0),
	};
	union bpf_attr attr = { .prog_type = BPF_PROG_TYPE_KPROBE,
				.insns = (uintptr_t)code,
				.insn_cnt = sizeof(code) / sizeof(code[0]),
				.license = (uintptr_t) "GPL",
				.log_level = 1,
				.log_size = sizeof(log),
				.log_buf = (uintptr_t)log };
	long fd = bpf(BPF_PROG_LOAD, &attr);

	if (fd < 0)
		printf("%s\n", log);
	if (fd < 0 || !strstr(log, "processed"))
		die("program");
	return (int)fd;
}

static long number(const char *path)
{
	char text[64] = "";
	int fd = open(path, O_RDONLY);
	char *last;

	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
		die(path);
	close(fd);
	last = strrchr(text, '-');
	return atol(last ? last + 1 : text);
}

static int event(const char *path, unsigned long offset, pid_t pid)
{
	struct perf_event_attr attr = { .size = sizeof(attr), .sample_period = 1, .wakeup_events = 1 };
	long fd;

	attr.type = (unsigned int)number("/sys/bus/event_source/devices/uprobe/type");
	attr.config1 = (uintptr_t)path;
	attr.config2 = offset;
	fd = syscall(SYS_perf_event_open, &attr, pid, pid < 0 ? 0 : -1, -1, PERF_FLAG_FD_CLOEXEC);
	if (fd < 0)
		die("perf_event_open");
	return (int)fd;
}

struct ring {
	int fd;
	struct perf_event_mmap_page *page;
	unsigned long seen;
};

static struct ring perf_ring(int perf, int cpu)
{
	struct perf_event_attr attr = { .type = PERF_TYPE_SOFTWARE,
					.size = sizeof(attr),
					.config = PERF_COUNT_SW_BPF_OUTPUT,
					.sample_period = 1,
					.sample_type = PERF_SAMPLE_RAW,
					.wakeup_events = 1 };
	struct ring ring = { .fd = (int)syscall(SYS_perf_event_open, &attr, -1, cpu, -1, 0) };
	union bpf_attr update = { .map_fd = (unsigned int)perf,
				  .key = (uintptr_t)&cpu,
				  .value = (uintptr_t)&ring.fd };

	if (ring.fd < 0)
		die("perf ring");
	ring.page = mmap(NULL, (1 + PERF_PAGES) * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd, 0);
	if (ring.page == MAP_FAILED)
		die("perf mmap");
	if (bpf(BPF_MAP_UPDATE_ELEM, &update) || ioctl(ring.fd, PERF_EVENT_IOC_ENABLE, 0))
		die("perf array");
	return ring;
}

static void attach(int prog, int probe, int by_ioctl)
{
	union bpf_attr attr = { .link_create = { .prog_fd = (unsigned int)prog,
						 .target_fd = (unsigned int)probe,
						 .attach_type = BPF_PERF_EVENT } };

	if (by_ioctl ? ioctl(probe, PERF_EVENT_IOC_SET_BPF, prog) < 0 : bpf(BPF_LINK_CREATE, &attr) < 0)
		die("attach");
	if (ioctl(probe, PERF_EVENT_IOC_ENABLE, 0))
		die("enable");
}

static unsigned long take_perf(struct ring *ring, unsigned long long *sum)
{
	unsigned char *data = (unsigned char *)ring->page + PAGE;
	unsigned long long head = __atomic_load_n(&ring->page->data_head, __ATOMIC_ACQUIRE);
	unsigned long long tail = ring->page->data_tail;
	unsigned long taken = 0;

	while (tail < head) {
		struct perf_event_header *h = (void *)(data + tail % (PERF_PAGES * PAGE));

		if (h->type == PERF_RECORD_SAMPLE) { /* records of 24 bytes: 8 + u32 size + 8 + pad */
			unsigned long long value;

			for (int i = 0; i < 8; i++)
				((unsigned char *)&value)[i] = data[(tail + 12 + i) %
								    (PERF_PAGES * PAGE)];
			*sum += value >> 32;
			taken++;
		}
		tail += h->size;
	}
	__atomic_store_n(&ring->page->data_tail, tail, __ATOMIC_RELEASE);
	return taken;
}

static unsigned long take_ring(unsigned long *consumer, unsigned char *base, unsigned long long *sum)
{
	unsigned long *producer = (void *)base, taken = 0, at = *consumer;
	unsigned char *data = base + PAGE;

	while (at < __atomic_load_n(producer, __ATOMIC_ACQUIRE)) {
		unsigned int len = __atomic_load_n((unsigned int *)(data + at % RING),
						   __ATOMIC_ACQUIRE);

		if (len & BPF_RINGBUF_BUSY_BIT)
			break;
		*sum += *(unsigned long long *)(data + at % RING + 8) >> 32;
		at += ((len & 0x3fffffff) + 8 + 7) / 8 * 8;
		taken++;
		__atomic_store_n(consumer, at, __ATOMIC_RELEASE);
	}
	return taken;
}

/* PROGRAM, of four threads. Where to write the line that it waits for. */
static int start(const char *program, unsigned long calls)
{
	int in[2], out[2];
	char rounds[24], byte;

	snprintf(rounds, sizeof(rounds), "%lu", calls / 4);
	if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC))
		die("pipe");
	if (!fork()) {
		dup2(in[0], 0);
		dup2(out[1], 1);
		execl(program, program, "-t", "4", "-n", rounds, "-w", (char *)NULL);
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	if (read(out[0], &byte, 1) != 1) /* it says its number */
		die("start");
	return in[1];
}

static void add(int epoll, int fd, unsigned long long what)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.u64 = what };

	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &ev))
		die("epoll_ctl");
}

/* Nobody may be given more than what there is, but loaders ask for it. */
static int lift(void)
{
	struct rlimit all = { RLIM_INFINITY, RLIM_INFINITY }, some = { 4096, RLIM_INFINITY },
		      wrong = { 2, 1 }, was = { 0, 0 }, before = { 0, 0 };

	if (setrlimit(RLIMIT_MEMLOCK, &all) || getrlimit(RLIMIT_MEMLOCK, &was))
		die("setrlimit");
	if (prlimit(0, RLIMIT_MEMLOCK, &some, &before) || prlimit(0, RLIMIT_MEMLOCK, NULL, &some))
		die("prlimit");
	printf("%d %d %d ", was.rlim_cur == RLIM_INFINITY, before.rlim_max == RLIM_INFINITY,
	       some.rlim_cur == 4096);
	printf("%d ", setrlimit(RLIMIT_MEMLOCK, &wrong) ? errno : 0);
	printf("%d\n", setrlimit(RLIMIT_MEMLOCK, (void *)8) ? errno : 0);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "lift"))
		return lift();

	int array = map(BPF_MAP_TYPE_ARRAY, 4, 8, 1), ring = map(BPF_MAP_TYPE_RINGBUF, 0, 0, RING);
	int hash = map(BPF_MAP_TYPE_HASH, 8, 8, 1024), prog, probe, epoll = epoll_create1(0);
	int cpus = (int)number("/sys/devices/system/cpu/possible") + 1, zero = 0;
	int perf = map(BPF_MAP_TYPE_PERF_EVENT_ARRAY, 4, 4, cpus), kin[2] = { -1, -1 };
	const char *how = argc > 4 ? argv[4] : "";
	int both = !strcmp(how, "both");
	unsigned long want = strtoul(argv[3], NULL, 10), rings = 0, perfs = 0, threads = 0;
	unsigned long long count = 0, next, *key = NULL, ring_sum = 0, perf_sum = 0;
	union bpf_attr attr = { .map_fd = (unsigned int)array,
				.key = (uintptr_t)&zero,
				.value = (uintptr_t)&count };
	unsigned long *consumer = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, ring, 0);
	unsigned char *base = mmap(NULL, PAGE + 2 * RING, PROT_READ, MAP_SHARED, ring, PAGE);
	struct ring *each = calloc((size_t)cpus, sizeof(*each));
	time_t end = time(NULL) + 30;
	struct epoll_event got[8];

	if (consumer == MAP_FAILED || base == MAP_FAILED)
		die("mmap");
	for (int cpu = 0; cpu < cpus; cpu++) {
		each[cpu] = perf_ring(perf, cpu);
		add(epoll, each[cpu].fd, (unsigned long long)cpu);
	}
	add(epoll, ring, 1ULL << 40);
	if (both)
		kin[0] = start(argv[1], want / 2);
	prog = program(array, ring, hash, perf);
	probe = event(argv[1], strtoul(argv[2], NULL, 0), strcmp(how, "own") ? -1 : getpid());
	attach(prog, probe, !strcmp(how, "ioctl"));
	printf("READY\n");
	fflush(stdout);
	if (both || !strcmp(how, "kin"))
		kin[1] = start(argv[1], both ? want / 2 : want);
	for (int i = 0; i < 2; i++)
		if (kin[i] >= 0 && write(kin[i], "\n", 1) != 1)
			die("go");
	while ((rings < want || perfs < want) && time(NULL) < end) {
		int n = epoll_wait(epoll, got, 8, 1000);

		for (int i = 0; i < n; i++)
			if (got[i].data.u64 >> 40)
				rings += take_ring(consumer, base, &ring_sum);
			else
				perfs += take_perf(&each[got[i].data.u64], &perf_sum);
	}
	if (bpf(BPF_MAP_LOOKUP_ELEM, &attr))
		die("lookup");
	for (;;) {
		union bpf_attr walk = { .map_fd = (unsigned int)hash,
					.key = (uintptr_t)key,
					.next_key = (uintptr_t)&next };

		if (bpf(BPF_MAP_GET_NEXT_KEY, &walk))
			break;
		key = &next;
		threads++;
	}
	printf("count %llu ring %lu of %llu perf %lu of %llu threads %lu end %d\n", count, rings,
	       rings ? ring_sum / rings : 0, perfs, perfs ? perf_sum / perfs : 0, threads,
	       errno == ENOENT);
	return 0;
}
