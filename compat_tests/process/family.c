/*
 * family DYNAMIC [restart]: a static program under `bpf-shim run`. Says which children it has, makes a map, hands it
 * to a fork child, whose lookup it prints, starts DYNAMIC (with its standard streams) and prints its
 * status. Signals come all the time, none of whose handlers (with "restart", they say SA_RESTART) may show in a result.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST = 1000000 }; /* calls without one */

static volatile sig_atomic_t ticks;

static void on_tick(int sig)
{
	(void)sig;
	ticks++;
}

static int create(void)
{
	union bpf_attr attr = {
		.map_type = BPF_MAP_TYPE_HASH, .key_size = 4, .value_size = 8, .max_entries = 8
	};

	return (int)syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof(attr));
}

static int element(int cmd, int fd, unsigned int key, unsigned long long *value)
{
	union bpf_attr attr = { .map_fd = (unsigned int)fd,
				.key = (uintptr_t)&key,
				.value = (uintptr_t)value };

	return syscall(SYS_bpf, cmd, &attr, sizeof(attr)) ? errno : 0;
}

/* The errno of a test run of more rounds than anybody waits for, by a signal. */
static int interrupted_run(void)
{
	static unsigned char packet[64];
	struct bpf_insn code[] = { { .code = 0xb7 }, { .code = 0x95 } };
	struct itimerval soon = { { 0, 20000 }, { 0, 20000 } };
	union bpf_attr load = { .prog_type = BPF_PROG_TYPE_SOCKET_FILTER,
				.insns = (uintptr_t)code,
				.insn_cnt = 2,
				.license = (uintptr_t) "GPL" };
	union bpf_attr run = { .test = { .data_size_in = sizeof(packet),
					 .data_in = (uintptr_t)packet,
					 .repeat = 1 << 30 } };
	int err;

	run.test.prog_fd = (unsigned int)syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof(load));
	setitimer(ITIMER_REAL, &soon, NULL);
	err = syscall(SYS_bpf, BPF_PROG_TEST_RUN, &run, sizeof(run)) ? errno : 0;
	setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, NULL);
	close((int)run.test.prog_fd);
	return err;
}

int main(int argc, char **argv)
{
	struct sigaction act = { .sa_handler = on_tick, .sa_flags = argc > 2 ? SA_RESTART : 0 };
	struct itimerval often = { { 0, 500 }, { 0, 500 } };
	unsigned long long value = 7, got = 0;
	int status, first, second, wrong = 0;
	char *alone;
	pid_t pid;

	if (argc < 2)
		return 2;
	printf("children %d\n", waitpid(-1, &status, WNOHANG) == -1 && errno == ECHILD ? 0 : 1);
	sigaction(SIGALRM, &act, NULL);
	setitimer(ITIMER_REAL, &often, NULL);
	/* one descriptor a call, however often a signal comes; one comes at least */
	for (int i = 0; i < 50 || (!ticks && i < MOST); i++) {
		first = create();
		second = create();
		wrong += first != 3 || second != 4;
		close(first);
		close(second);
	}
	setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, NULL);
	printf("wrong numbers %d ticks %d\n", wrong, ticks > 0);
	first = create();
	printf("close on exec %d\n", fcntl(first, F_GETFD));
	printf("update %d\n", element(BPF_MAP_UPDATE_ELEM, first, 1, &value));
	fflush(stdout);
	if (!fork()) {
		printf("child %d", element(BPF_MAP_LOOKUP_ELEM, first, 1, &got));
		printf(" value %llu\n", got);
		fflush(stdout);
		_exit(0);
	}
	wait(&status);
	/* memory that ends behind the key, and memory that is not there */
	alone = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	munmap(alone + 4096, 4096);
	memcpy(alone + 4092, "\1\0\0\0", 4);
	value = 0;
	{
		union bpf_attr attr = { .map_fd = (unsigned int)first,
					.key = (uintptr_t)alone + 4092,
					.value = (uintptr_t)&value };

		printf("at an edge %d", syscall(SYS_bpf, BPF_MAP_LOOKUP_ELEM, &attr, 32) ? errno : 0);
		printf(" value %llu\n", value);
		attr.value = (uintptr_t)alone + 4092;
		printf("beyond it %d\n", syscall(SYS_bpf, BPF_MAP_LOOKUP_ELEM, &attr, 32) ? errno : 0);
	}
	printf("test run %d\n", interrupted_run());
	fflush(stdout);
	pid = fork();
	if (!pid) {
		execl(argv[1], argv[1], (char *)NULL);
		_exit(127);
	}
	waitpid(pid, &status, 0);
	printf("dynamic %d\n", WIFEXITED(status) ? WEXITSTATUS(status) : -1);
	return 0;
}
