#include "core.h"

/* Fields that are wider or narrower in the kernel: loads change their size, or are poisoned. */
struct task_struct {
	u64 flags; /* unsigned int there */
	unsigned char exit_state; /* int: signed */
	unsigned int start_time; /* u64 */
	u64 pid; /* int: signed */
	void *stack;
	unsigned short policy;
} CORE;

u64 out[8];

SEC("tp_btf/sched_switch")
int loads(u64 *ctx)
{
	struct task_struct *t = (void *)ctx[1];

	out[0] = t->flags;
	out[1] = t->start_time;
	out[2] = (u64)t->stack;
	out[3] = t->policy;
	return 0;
}

SEC("tp_btf/sched_process_exit")
int unfit(u64 *ctx)
{
	struct task_struct *t = (void *)ctx[0];

	out[4] = t->pid;
	out[5] = t->exit_state;
	t->flags = 3;
	return 0;
}
