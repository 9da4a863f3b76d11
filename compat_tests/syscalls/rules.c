/* Whom a tracepoint's program runs for, by what its event was opened with: a line a case. */
#define _GNU_SOURCE
#include <bpf/bpf.h>
#include <errno.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CALLS = 10 };

static int counter;

/* One more at each run by this process; its first 8 bytes are the context's, which are not read. */
static int load(enum bpf_prog_type type)
{
	struct bpf_insn insns[] = {
		{ BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_get_current_pid_tgid },
		{ BPF_ALU64 | BPF_RSH | BPF_K, 0, 0, 0, 32 },
		{ BPF_JMP | BPF_JNE | BPF_K, 0, 0, 9, getpid() },
		{ BPF_ST | BPF_MEM | BPF_W, 10, 0, -4, 0 },
		{ BPF_ALU64 | BPF_MOV | BPF_X, 2, 10, 0, 0 },
		{ BPF_ALU64 | BPF_ADD | BPF_K, 2, 0, 0, -4 },
		{ BPF_LD | BPF_IMM | BPF_DW, 1, BPF_PSEUDO_MAP_FD, 0, counter },
		{ 0, 0, 0, 0, 0 },
		{ BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_map_lookup_elem },
		{ BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 2, 0 },
		{ BPF_ALU64 | BPF_MOV | BPF_K, 1, 0, 0, 1 },
		{ BPF_STX | BPF_ATOMIC | BPF_DW, 0, 1, 0, BPF_ADD },
		{ BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0 },
		{ BPF_JMP | BPF_EXIT, 0, 0, 0, 0 },
	};

	return bpf_prog_load(type, "counts", "GPL", insns, sizeof(insns) / sizeof(insns[0]), NULL);
}

static unsigned long long id_of(const char *event)
{
	unsigned long long id = 0;
	char path[128];
	FILE *file;

	snprintf(path, sizeof(path), "/sys/kernel/debug/tracing/events/syscalls/%s/id", event);
	file = fopen(path, "r");
	if (!file || fscanf(file, "%llu", &id) != 1)
		exit(2);
	fclose(file);
	return id;
}

static int open_event(unsigned long long id, pid_t pid, int cpu, int disabled)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_TRACEPOINT,
		.size = sizeof(attr),
		.config = id,
		.disabled = disabled,
	};

	return (int)syscall(SYS_perf_event_open, &attr, pid, cpu, -1, PERF_FLAG_FD_CLOEXEC);
}

/* Calls that were counted; the event's own are over by then. */
static long counted(void)
{
	__u32 key = 0;
	__u64 before = 0, after = 0;

	bpf_map_lookup_elem(counter, &key, &before);
	for (int i = 0; i < CALLS; i++)
		syscall(SYS_getppid);
	bpf_map_lookup_elem(counter, &key, &after);
	return (long)(after - before);
}

static void row(const char *name, unsigned long long id, pid_t pid, int cpu, int disabled, int prog)
{
	int event = open_event(id, pid, cpu, disabled), err = errno, set;

	if (event < 0) {
		printf("%s: open %d\n", name, err);
		return;
	}
	set = ioctl(event, PERF_EVENT_IOC_SET_BPF, prog) ? errno : 0;
	printf("%s: set %d, counted %ld", name, set, counted());
	set = ioctl(event, PERF_EVENT_IOC_SET_BPF, prog) ? errno : 0;
	printf(", again %d", set);
	ioctl(event, PERF_EVENT_IOC_DISABLE, 0);
	printf(", disabled %ld", counted());
	ioctl(event, PERF_EVENT_IOC_ENABLE, 0);
	printf(", enabled %ld", counted());
	close(event);
	printf(", closed %ld\n", counted());
}

int main(void)
{
	unsigned long long enter = id_of("sys_enter_getppid"), leave = id_of("sys_exit_getppid");
	cpu_set_t here;
	int prog, other;
	pid_t child;

	CPU_ZERO(&here);
	CPU_SET(0, &here);
	sched_setaffinity(0, sizeof(here), &here);
	counter = bpf_map_create(BPF_MAP_TYPE_ARRAY, "counter", 4, 8, 1, NULL);
	prog = load(BPF_PROG_TYPE_TRACEPOINT);
	other = load(BPF_PROG_TYPE_KPROBE);
	if (counter < 0 || prog < 0 || other < 0)
		return 2;
	child = fork();
	if (!child) {
		pause();
		_exit(0);
	}
	row("this cpu", enter, -1, 0, 0, prog);
	row("another cpu", enter, -1, 1, 0, prog);
	row("this process", enter, getpid(), -1, 0, prog);
	row("this process, called 0", enter, 0, -1, 0, prog);
	row("this process on another cpu", enter, 0, 1, 0, prog);
	row("another process", enter, child, -1, 0, prog);
	row("this cpu, disabled", enter, -1, 0, 1, prog);
	row("this process, disabled", leave, 0, -1, 1, prog);
	row("an exit", leave, -1, 0, 0, prog);
	row("nobody anywhere", enter, -1, -1, 0, prog);
	row("no process", enter, 0x3fffffff, -1, 0, prog);
	row("no tracepoint", 0xffffff, -1, 0, 0, prog);
	row("a kprobe's program", enter, -1, 0, 0, other);
	row("no program", enter, -1, 0, 0, -1);
	row("a map", enter, -1, 0, 0, counter);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	return 0;
}
