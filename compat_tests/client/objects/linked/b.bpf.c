#include "../core.h"

int other_counter = 4;
static int statics[3] = { 1, 2, 3 };

struct task_struct {
	int pid;
} CORE;

NOINLINE int chosen(int x)
{
	return x + 2;
}

NOINLINE int shared_func(int x)
{
	return x * statics[x & 1];
}

SEC("uprobe")
int from_b(void *ctx)
{
	struct task_struct *t = (void *)bpf_get_current_task();

	statics[other_counter & 1]++;
	return chosen(BPF_CORE_READ(t, pid));
}
