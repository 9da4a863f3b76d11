/*
 * quick NAME: element commands in loops, while what they rely on changes: descriptors, pointers,
 * threads, processes. Prints what each command answered; the kernel is asked the same.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

enum { LOOKUP = 1, UPDATE, DELETE, NEXT_KEY, KEYS = 64 };

static long bpf(int cmd, union bpf_attr *attr, unsigned size)
{
	long ret = syscall(SYS_bpf, cmd, attr, size);

	return ret < 0 ? -errno : ret;
}

static int make(unsigned type, unsigned key, unsigned value, unsigned entries, unsigned flags)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.map_type = type;
	attr.key_size = key;
	attr.value_size = value;
	attr.max_entries = entries;
	attr.map_flags = flags;
	return (int)bpf(BPF_MAP_CREATE, &attr, sizeof(attr));
}

static long elem(int cmd, int fd, const void *key, const void *value, unsigned long long flags)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.map_fd = (unsigned)fd;
	attr.key = (unsigned long)key;
	attr.value = (unsigned long)value;
	attr.flags = flags;
	return bpf(cmd, &attr, cmd == NEXT_KEY ? 24 : cmd == DELETE ? 16 : 32);
}

/* So often that whatever is remembered of fd is. */
static int used(unsigned type)
{
	int fd = make(type, 4, 8, KEYS, 0);
	unsigned key = 1;
	unsigned long value = 7;

	for (int i = 0; i < 5; i++)
		elem(UPDATE, fd, &key, &value, 0);
	return fd;
}

static void say(const char *what, long ret)
{
	printf("%s %ld\n", what, ret);
}

static long lookup(int fd)
{
	unsigned key = 1;
	unsigned long value = 0;
	long ret = elem(LOOKUP, fd, &key, &value, 0);

	return ret ? ret : (long)value;
}

static void descriptors(void)
{
	int fd = used(1), other = used(2), null = open("/dev/null", O_RDWR), copy;
	unsigned key = 1;
	unsigned long value = 9;

	elem(UPDATE, other, &key, &value, 0);
	say("first", lookup(fd));
	syscall(SYS_dup2, other, fd);
	say("dup2", lookup(fd));
	syscall(SYS_dup3, null, fd, O_CLOEXEC);
	say("dup3", lookup(fd));
	say("other", lookup(other));
	syscall(SYS_close, fd);
	say("closed", lookup(fd));
	copy = dup(other);
	say("copied", lookup(copy));
	dup2(null, copy);
	say("covered", lookup(copy));
	syscall(SYS_close_range, 3, 100, 0);
	say("all closed", lookup(other));
	fd = used(1);
	say("again", lookup(fd));
	close(fd);
	say("end", lookup(fd));
	say("negative", lookup(-1));
	say("large", lookup(1 << 30));
}

static char *end_of_stack(void)
{
	unsigned long low, high = 0;
	char line[512];
	FILE *maps = fopen("/proc/self/maps", "r");

	while (fgets(line, sizeof(line), maps) && !strstr(line, "[stack]"))
		;
	sscanf(line, "%lx-%lx", &low, &high);
	fclose(maps);
	return (char *)high;
}

static void pointers(void)
{
	char *pages = mmap(0, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = used(1), large = make(1, 4, 4096, 4, 0);
	static const unsigned constant = 1;
	static unsigned long variable;
	unsigned key = 1, *allocated = malloc(4);
	unsigned long value = 5, *room = malloc(8);
	union bpf_attr *attr = (void *)(pages + 4096);

	*allocated = 1;
	mprotect(pages + 4096, 4096, PROT_READ);
	say("constant key", elem(LOOKUP, fd, &constant, &variable, 0));
	say("constant value", elem(LOOKUP, fd, &constant, &constant, 0));
	say("allocated", elem(LOOKUP, fd, allocated, room, 0));
	say("no key", elem(LOOKUP, fd, 0, &value, 0));
	say("no value", elem(LOOKUP, fd, &key, 0, 0));
	say("low", elem(UPDATE, fd, &key, (void *)16, 0));
	say("high", elem(LOOKUP, fd, (void *)-8L, &value, 0));
	say("wraps", elem(LOOKUP, fd, &key, (void *)-4L, 0));
	say("read-only", elem(LOOKUP, fd, &key, pages + 4096, 0));
	say("from read-only", elem(UPDATE, fd, &key, pages + 4096, 0));
	say("half", elem(LOOKUP, fd, &key, pages + 4092, 0));
	say("code", elem(LOOKUP, fd, &key, (void *)pointers, 0));
	say("end of stack", elem(UPDATE, large, &key, end_of_stack() - 2048, 0));
	say("top of stack", elem(UPDATE, large, &key, end_of_stack() - 4096, 0));
	say("attr", syscall(SYS_bpf, LOOKUP, 16, 32) ? -errno : 0);
	say("attr read-only", bpf(LOOKUP, attr, 32));
	munmap(pages, 3 * 4096);
	say("unmapped", elem(LOOKUP, fd, &key, pages, 0));
}

static void attrs(void)
{
	int fd = used(1);
	unsigned key = 1;
	unsigned long value = 5;
	union bpf_attr attr;

	for (unsigned size = 0; size <= 200; size += 4) {
		char big[256] = { 0 };

		memset(&attr, 0, sizeof(attr));
		attr.map_fd = (unsigned)fd;
		attr.key = (unsigned long)&key;
		attr.value = (unsigned long)&value;
		memcpy(big, &attr, 32);
		for (int cmd = LOOKUP; cmd <= NEXT_KEY; cmd++)
			printf("%ld ", bpf(cmd, (void *)big, size));
		if (size > 32) {
			big[size - 1] = 1;
			for (int cmd = LOOKUP; cmd <= NEXT_KEY; cmd++)
				printf("%ld ", bpf(cmd, (void *)big, size));
		}
		puts("");
		elem(UPDATE, fd, &key, &value, 0);
	}
	for (unsigned flags = 0; flags < 10; flags++)
		printf("%ld %ld\n", elem(LOOKUP, fd, &key, &value, flags),
		       elem(UPDATE, fd, &key, &value, flags));
}

static void walks(void)
{
	int fd = make(2, 4, 8, KEYS, 0), hash = make(1, 4, 8, KEYS, 0);
	unsigned key, n = 0;
	unsigned long value;

	for (key = ~0u; !elem(NEXT_KEY, fd, &key, &key, 0);) /* the key is where the next goes */
		n += key;
	say("array", n);
	for (key = 0; key < KEYS; key++) {
		value = key;
		elem(UPDATE, hash, &key, &value, BPF_NOEXIST);
	}
	say("full", elem(UPDATE, hash, &key, &value, 0));
	n = 0;
	for (long err = elem(NEXT_KEY, hash, 0, &key, 0); !err;
	     err = elem(NEXT_KEY, hash, &key, &key, 0)) {
		elem(LOOKUP, hash, &key, &value, 0);
		n += value == key;
	}
	say("hash", n);
	for (key = 0; key < KEYS; key++)
		n -= !elem(DELETE, hash, &key, 0, 0);
	say("deleted", n);
	say("empty", elem(NEXT_KEY, hash, 0, &key, 0));
}

static int shared_fd;
static volatile int stop;

static void *reader(void *arg)
{
	long bad = 0;

	(void)arg;
	while (!stop) {
		long ret = lookup(__atomic_load_n(&shared_fd, __ATOMIC_ACQUIRE));

		bad += ret > 0 && ret != 7; /* the number may be closed, or a new map's by now */
	}
	return (void *)bad;
}

/* Maps go while others look things up in them. */
static void threads(void)
{
	pthread_t ids[3];
	long bad = 0;
	void *ret;

	shared_fd = used(1);
	for (int i = 0; i < 3; i++)
		pthread_create(&ids[i], 0, reader, 0);
	for (int i = 0; i < 100; i++) {
		int next = used(1 + (i & 1)), old = shared_fd;

		__atomic_store_n(&shared_fd, next, __ATOMIC_RELEASE);
		for (int j = 0; j < 50; j++)
			bad += lookup(next) != 7;
		close(old);
	}
	stop = 1;
	for (int i = 0; i < 3; i++) {
		pthread_join(ids[i], &ret);
		bad += (long)ret;
	}
	say("bad", bad);
}

enum { STEPPING = 1 << 8 /* the trap flag */ };
static volatile long steps; /* until it stops */
static volatile int stands, goes_on;

static void step(int sig, siginfo_t *info, void *context)
{
	(void)sig, (void)info;
	if (--steps > 0)
		return;
	((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL] &= ~STEPPING;
	if (steps < 0) /* it was through */
		return;
	stands = 1;
	while (!goes_on)
		sched_yield();
}

static void *stepper(void *arg)
{
	long ret;

	for (int i = 0; i < 5; i++)
		lookup(shared_fd);
	steps = *(long *)arg;
	__asm__ volatile("pushfq; orl %0, (%%rsp); popfq" ::"i"(STEPPING) : "memory", "cc");
	ret = lookup(shared_fd);
	if (steps > 0)
		steps = 0; /* the next instruction's trap ends it */
	stands = 1;
	return (void *)ret;
}

/* A thread stops at any instruction of a lookup, and goes on when its map has gone and others have
 * come. */
static void stopped(void)
{
	struct sigaction act = { .sa_sigaction = step, .sa_flags = SA_SIGINFO };
	long n, bad = 0;

	sigaction(SIGTRAP, &act, 0);
	for (n = 1; n < 250; n++) {
		pthread_t id;
		void *ret;

		stands = goes_on = 0;
		shared_fd = used(1 + (n & 1));
		pthread_create(&id, 0, stepper, &n);
		while (!stands)
			sched_yield();
		close(shared_fd);
		close(used(2 - (n & 1)));
		goes_on = 1;
		pthread_join(id, &ret);
		bad += (long)ret > 0 && (long)ret != 7; /* it may have begun after the end */
	}
	say("bad", bad);
}

static void processes(void)
{
	int fd = used(1), status;
	unsigned key = 1;
	unsigned long value = 0;

	fflush(stdout);
	for (int i = 0; i < 3; i++) {
		pid_t pid = fork();

		if (!pid) {
			for (int j = 0; j < 100; j++) {
				elem(LOOKUP, fd, &key, &value, 0);
				value++;
				elem(UPDATE, fd, &key, &value, 0);
			}
			_exit(lookup(fd) != (i + 1) * 100 + 7);
		}
		waitpid(pid, &status, 0);
		say("child", status);
	}
	say("after", lookup(fd));
}

static int handled_fd;
static jmp_buf back;

static void handler(int sig)
{
	static int calls;

	if (sig == SIGUSR2)
		longjmp(back, 1);
	if (lookup(handled_fd) != 7 || ++calls == 50)
		signal(SIGALRM, SIG_DFL), setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, 0), stop = 1;
}

/* On a stack of its own, in the middle of another command. */
static void signals(void)
{
	stack_t stack = { .ss_sp = malloc(65536), .ss_size = 65536 };
	struct sigaction act = { .sa_handler = handler, .sa_flags = SA_ONSTACK };
	struct itimerval often = { { 0, 200 }, { 0, 200 } };
	long bad = 0;

	handled_fd = used(1);
	sigaltstack(&stack, 0);
	sigaction(SIGALRM, &act, 0);
	setitimer(ITIMER_REAL, &often, 0);
	while (!stop)
		bad += lookup(handled_fd) != 7;
	say("bad", bad);
	act.sa_flags = SA_NODEFER;
	sigaction(SIGUSR2, &act, 0);
	for (volatile int i = 0; i < 3; i++)
		if (!setjmp(back))
			raise(SIGUSR2);
	say("after", lookup(handled_fd));
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} all[] = {
		{ "descriptors", descriptors },
		{ "pointers", pointers },
		{ "attrs", attrs },
		{ "walks", walks },
		{ "threads", threads },
		{ "stopped", stopped },
		{ "processes", processes },
		{ "signals", signals },
	};

	for (unsigned i = 0; argc == 2 && i < sizeof(all) / sizeof(all[0]); i++)
		if (!strcmp(argv[1], all[i].name)) {
			all[i].run();
			return 0;
		}
	return 2;
}
