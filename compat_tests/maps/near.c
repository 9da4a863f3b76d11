/*
 * near: element commands with keys and values in every kind of memory, and on descriptors that were
 * closed, moved and made again in every way. One line for each case; the kernel's and the shim's are
 * the same.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LOOKUP = BPF_MAP_LOOKUP_ELEM, UPDATE = BPF_MAP_UPDATE_ELEM, ROUNDS = 300 };

static const uint32_t const_key = 1;
static const uint64_t const_value = 77;
static uint64_t data_value = 1, bss_value;
static __thread uint64_t tls_value;
static volatile int stop;
static int looking;

static int new_map(uint64_t value)
{
	union bpf_attr a = {
		.map_type = BPF_MAP_TYPE_HASH, .key_size = 4, .value_size = 8, .max_entries = 16
	};
	uint32_t key = 1;
	int fd = (int)syscall(SYS_bpf, BPF_MAP_CREATE, &a, 72);

	memset(&a, 0, sizeof(a));
	a.map_fd = (uint32_t)fd;
	a.key = (uintptr_t)&key;
	a.value = (uintptr_t)&value;
	if (fd < 0 || syscall(SYS_bpf, UPDATE, &a, 32)) {
		printf("no map: descriptor %d, errno %d\n", fd, errno);
		exit(1);
	}
	return fd;
}

static long element(int cmd, int fd, const void *key, const void *value)
{
	union bpf_attr a;
	long ret;

	memset(&a, 0, sizeof(a));
	a.map_fd = (uint32_t)fd;
	a.key = (uintptr_t)key;
	a.value = (uintptr_t)value;
	ret = syscall(SYS_bpf, cmd, &a, 32);
	return ret ? -errno : 0;
}

/* What key 1 has, or the errno. */
static long look(int fd)
{
	uint32_t key = 1;
	uint64_t value = 0;
	long err = element(LOOKUP, fd, &key, &value);

	return err ? err : (long)value;
}

static void say(const char *what, long result)
{
	printf("%s: %ld\n", what, result);
	fflush(stdout);
}

/* ---- memory ---- */

static void memory_case(const char *what, int fd, void *value)
{
	printf("%s: %ld %ld %ld\n", what, element(LOOKUP, fd, &const_key, value),
	       element(UPDATE, fd, &const_key, value), look(fd));
	fflush(stdout);
}

static void *in_thread(void *arg)
{
	uint64_t value = 0;

	memory_case("a thread's stack", *(int *)arg, &value);
	memory_case("thread-local", *(int *)arg, &tls_value);
	return NULL;
}

static void memory(void)
{
	uint8_t *pages = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			      0);
	void *small = malloc(64), *large = malloc(1 << 20);
	uint64_t value = 0;
	int fd = new_map(5);
	pthread_t thread;

	mprotect(pages + 4096, 4096, PROT_NONE);
	mprotect(pages + 2 * 4096, 4096, PROT_READ);
	memory_case("stack", fd, &value);
	memory_case("data", fd, &data_value);
	memory_case("bss", fd, &bss_value);
	memory_case("heap", fd, small);
	memory_case("large block", fd, large);
	memory_case("mapping", fd, pages);
	memory_case("thread-local of main", fd, &tls_value);
	memory_case("end of a mapping", fd, pages + 4096 - 8);
	memory_case("over the end", fd, pages + 4096 - 4);
	memory_case("no access", fd, pages + 4096);
	memory_case("read-only page", fd, pages + 2 * 4096);
	memory_case("read-only data", fd, (void *)&const_value);
	memory_case("code", fd, (void *)(uintptr_t)&memory);
	memory_case("null", fd, NULL);
	memory_case("kernel's half", fd, (void *)0xffff888000000000ULL);
	memory_case("end of the address space", fd, (void *)~7ULL);
	say("key in code", element(LOOKUP, fd, (void *)(uintptr_t)&memory, &value));
	say("key nowhere", element(LOOKUP, fd, (void *)16, &value));
	pthread_create(&thread, NULL, in_thread, &fd);
	pthread_join(thread, NULL);
	munmap(pages, 4096);
	memory_case("unmapped", fd, pages);
	free(small);
	free(large);
	close(fd);
}

/* ---- descriptors ---- */

static void descriptors(void)
{
	int a = new_map(10), b = new_map(20), c, file;

	say("open", look(a));
	say("a copy", look(c = dup(a)));
	close(a);
	say("closed", look(a));
	say("its copy", look(c));
	file = open("/dev/null", O_RDONLY);
	say("a file at its number", file == a ? look(a) : 1);
	syscall(SYS_close, file);
	say("closed by syscall", look(file));
	a = new_map(11);
	say("made again", look(a));
	syscall(SYS_close, a);
	say("closed by syscall, a map", look(a));
	a = new_map(12);
	dup2(b, a);
	say("dup2 over it", look(a));
	syscall(SYS_dup2, c, a);
	say("dup2 by syscall", look(a));
	dup3(b, a, O_CLOEXEC);
	say("dup3", look(a));
	syscall(SYS_dup3, c, a, O_CLOEXEC);
	say("dup3 by syscall", look(a));
	say("fcntl", look(fcntl(b, F_DUPFD_CLOEXEC, 100)));
	say("fcntl by syscall", look((int)syscall(SYS_fcntl, b, F_DUPFD, 200)));
	say("its flags", syscall(SYS_fcntl, b, F_GETFD));
	file = (int)syscall(SYS_dup, b);
	say("dup by syscall", look(file));
	close(file);
	close_range(100, 300, 0);
	say("close_range", look(100));
	dup2(b, 150);
	syscall(SYS_close_range, 100, 300, 0);
	say("close_range by syscall", look(150));
	dup2(STDOUT_FILENO, a);
	say("no map any more", look(a));
	say("never open", look(5000));
	say("negative", look(-1));
	close(a);
	close(b);
	close(c);
}

static void forks(void)
{
	int fd = new_map(30), other = new_map(31), status;
	uint32_t key = 1;
	uint64_t value = 32;

	if (!fork()) {
		long seen = look(fd);

		element(UPDATE, fd, &key, &value);
		close(fd);
		dup2(other, fd);
		_exit(seen == 30 && look(fd) == 31 ? 0 : 1);
	}
	wait(&status);
	say("child", WEXITSTATUS(status));
	say("after the child's change", look(fd));
	if (!vfork()) {
		close(fd);
		_exit(0);
	}
	wait(&status);
	say("after a vfork child's close", look(fd));
	close(fd);
	close(other);
}

/* ---- maps that go while somebody looks ---- */

static void *looker(void *arg)
{
	long *bad = arg;

	for (__atomic_fetch_add(&looking, 1, __ATOMIC_RELAXED); !stop;) {
		for (int fd = 3; fd < 8; fd++) {
			long got = look(fd);

			if (got != -EBADF && got != -EINVAL && got != -ENOENT && got != 40)
				*bad = got;
		}
	}
	return NULL;
}

static void races(void)
{
	pthread_t thread[2];
	long bad[2] = { 0 };

	for (int i = 0; i < 2; i++)
		pthread_create(&thread[i], NULL, looker, &bad[i]);
	while (__atomic_load_n(&looking, __ATOMIC_RELAXED) < 2)
		sched_yield();
	for (int i = 0; i < ROUNDS; i++) {
		int a = new_map(40), b = new_map(40);

		close(a);
		a = new_map(40);
		close(b);
		close(a);
	}
	stop = 1;
	for (int i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
	say("closed under other threads", bad[0] ? bad[0] : bad[1]);
}

/* A close that passes no function of libc. */
static void inline_close(void)
{
	int fd = new_map(50);
	long ret;

	look(fd);
	look(fd);
	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(SYS_close), "D"((long)fd)
			 : "rcx", "r11", "memory");
	say("closed by an instruction of its own", look(fd));
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "inline")) {
		inline_close();
		return 0;
	}
	memory();
	descriptors();
	forks();
	races();
	return 0;
}
