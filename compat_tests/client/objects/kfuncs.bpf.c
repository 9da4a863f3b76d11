#include "core.h"

extern void bpf_rcu_read_lock(void) __ksym;
extern void bpf_rcu_read_unlock(void) __ksym;
extern int bpf_nosuch_kfunc(int, long x) __ksym __weak;

int out;

SEC("tp_btf/task_newtask")
int locked(void *ctx)
{
	bpf_rcu_read_lock();
	out++;
	bpf_rcu_read_unlock();
	return bpf_nosuch_kfunc(1, 2);
}
