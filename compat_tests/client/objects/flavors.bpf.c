#include "core.h"

struct task_struct___old {
	long state;
} CORE;
struct task_struct___new {
	unsigned int __state;
} CORE;
struct task_struct {
	int pid, tgid;
	struct task_struct *real_parent;
	struct mm_struct *mm;
} CORE;
struct mm_struct {
	struct {
		unsigned long start_stack;
	};
	unsigned long arg_start___flavored;
} CORE;

u64 state, stack;

SEC("kprobe/do_exit")
int read_state(void *ctx)
{
	struct task_struct *t = (void *)bpf_get_current_task();

	if (bpf_core_field_exists(((struct task_struct___old *)t)->state))
		state = BPF_CORE_READ((struct task_struct___old *)t, state);
	else
		state = BPF_CORE_READ((struct task_struct___new *)t, __state);
	stack = BPF_CORE_READ(t, real_parent, mm, start_stack);
	return BPF_CORE_READ(t, real_parent, real_parent, tgid);
}
