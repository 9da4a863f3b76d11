#include "core.h"

struct task_struct {
	int pid;
	char comm[16];
	struct nosuch *nosuch;
} CORE;
struct nosuch {
	int x;
} CORE;
struct list_head {
	struct list_head *next, *prev;
} CORE;
union sigval {
	int sival_int;
} CORE;
typedef unsigned int uint;
typedef int (*callback_nosuch)(void *);
enum cpu_usage_stat { CPUTIME_USER };
struct bpf_ringbuf {
	int mask;
} CORE;

u64 out[20];

SEC("uprobe")
int ask(struct pt_regs *ctx)
{
	struct task_struct *t = (void *)bpf_get_current_task();

	out[0] = bpf_core_type_exists(struct task_struct);
	out[1] = bpf_core_type_exists(struct nosuch);
	out[2] = bpf_core_type_size(struct task_struct);
	out[3] = bpf_core_type_size(struct nosuch);
	out[4] = bpf_core_type_id_local(struct task_struct);
	out[5] = bpf_core_type_id_kernel(struct task_struct);
	out[6] = bpf_core_type_id_kernel(struct nosuch);
	out[7] = bpf_core_field_exists(t->comm);
	out[8] = bpf_core_field_exists(t->nosuch);
	out[9] = bpf_core_field_size(t->comm);
	out[10] = bpf_core_field_offset(t->comm);
	out[11] = bpf_core_field_exists(((struct list_head *)0)->prev);
	out[12] = bpf_core_type_exists(union sigval) + bpf_core_type_exists(uint);
	out[13] = bpf_core_type_exists(callback_nosuch);
	out[14] = bpf_core_type_exists(enum cpu_usage_stat) + bpf_core_type_size(enum cpu_usage_stat);
	out[15] = bpf_core_type_exists(struct bpf_ringbuf);
	out[16] = bpf_core_type_id_local(int);
	out[17] = bpf_core_type_exists(struct pt_regs);
	return 0;
}
