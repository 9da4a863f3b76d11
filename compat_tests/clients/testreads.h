/* Test runs of testreads.bpf.c, for loaders of it. */
#ifndef TESTREADS_H
#define TESTREADS_H

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, REPEAT = 300 };

static struct bpf_object *obj;
static volatile int wrong, interrupted;
static char *memory; /* a page, and two that nobody may read */
static char *file; /* a page of a file, and one behind its end */
static int file_fd;

static void run_for(const char *name, int repeat)
{
	char packet[64] = { 0 };
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = packet, .data_size_in = sizeof(packet),
		    .repeat = repeat);
	int fd = bpf_program__fd(bpf_object__find_program_by_name(obj, name));
	int err = bpf_prog_test_run_opts(fd, &opts);

	if (err == -EINTR)
		interrupted++;
	else
		wrong += err ? 1000000 : (int)opts.retval;
}

static void run(const char *name)
{
	run_for(name, REPEAT);
}

static void load(const char *path)
{
	struct {
		unsigned long text, none, edge, beyond;
	} at;

	memory = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	strcpy(memory, "0123456789012345678901234567890");
	memcpy(memory + PAGE - 8, "01234567", 8);
	mprotect(memory + PAGE, 2 * PAGE, PROT_NONE);
	file_fd = memfd_create("short", MFD_CLOEXEC);
	if (ftruncate(file_fd, PAGE))
		exit(3);
	file = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file_fd, 0);
	memcpy(file + PAGE - 8, "01234567", 8);
	at.text = (unsigned long)memory;
	at.none = at.text + PAGE;
	at.edge = at.none - 8;
	at.beyond = (unsigned long)file + PAGE;
	obj = bpf_object__open_file(path, NULL);
	if (!obj ||
	    bpf_map__set_initial_value(bpf_object__find_map_by_name(obj, ".rodata"), &at, sizeof(at)) ||
	    bpf_object__load(obj))
		exit(3);
}

#endif
