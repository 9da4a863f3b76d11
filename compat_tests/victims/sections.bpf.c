/* Programs that hold locks, save interrupts and open sections, themselves, in functions and in what
 * bpf_loop() calls; each right or wrong in one way. */
#include "owned.h"

private(A) struct bpf_spin_lock lock;
private(B) struct bpf_res_spin_lock rlock;
private(C) struct bpf_res_spin_lock rlock2;

SEC("tc") int res_irq(void *ctx)
{
	unsigned long f;
	if (bpf_res_spin_lock_irqsave(&rlock, &f))
		return 0;
	bpf_res_spin_unlock_irqrestore(&rlock, &f);
	return 0;
}
SEC("tc") int res_irq_two(void *ctx)
{
	unsigned long f, g;
	if (bpf_res_spin_lock_irqsave(&rlock, &f))
		return 0;
	if (bpf_res_spin_lock_irqsave(&rlock2, &g)) {
		bpf_res_spin_unlock_irqrestore(&rlock, &f);
		return 0;
	}
	bpf_res_spin_unlock_irqrestore(&rlock2, &g);
	bpf_res_spin_unlock_irqrestore(&rlock, &f);
	return 0;
}
SEC("tc") int res_irq_two_bad(void *ctx)
{
	unsigned long f, g;
	if (bpf_res_spin_lock_irqsave(&rlock, &f))
		return 0;
	if (bpf_res_spin_lock_irqsave(&rlock2, &g)) {
		bpf_res_spin_unlock_irqrestore(&rlock, &f);
		return 0;
	}
	bpf_res_spin_unlock_irqrestore(&rlock2, &f);
	bpf_res_spin_unlock_irqrestore(&rlock, &g);
	return 0;
}
SEC("tc") int res_mixed(void *ctx)
{
	unsigned long f;
	if (bpf_res_spin_lock_irqsave(&rlock, &f))
		return 0;
	bpf_res_spin_unlock(&rlock);
	bpf_local_irq_restore(&f);
	return 0;
}
SEC("tc") int res_irq_class(void *ctx)
{
	unsigned long f;
	if (bpf_res_spin_lock_irqsave(&rlock, &f))
		return 0;
	bpf_local_irq_restore(&f);
	return 0;
}
SEC("tc") int res_and_spin(void *ctx)
{
	bpf_spin_lock(&lock);
	if (!bpf_res_spin_lock(&rlock))
		bpf_res_spin_unlock(&rlock);
	bpf_spin_unlock(&lock);
	return 0;
}
SEC("tc") int spin_in_res(void *ctx)
{
	if (bpf_res_spin_lock(&rlock))
		return 0;
	bpf_spin_lock(&lock);
	bpf_spin_unlock(&lock);
	bpf_res_spin_unlock(&rlock);
	return 0;
}
static __noinline void save_in(unsigned long *f)
{
	bpf_local_irq_save(f);
}
static __noinline void restore_in(unsigned long *f)
{
	bpf_local_irq_restore(f);
}
SEC("tc") int irq_sub(void *ctx)
{
	unsigned long f;
	save_in(&f);
	restore_in(&f);
	return 0;
}
SEC("tc") int irq_sub_left(void *ctx)
{
	unsigned long f;
	save_in(&f);
	return 0;
}
static __noinline int save_own(void)
{
	unsigned long f;
	bpf_local_irq_save(&f);
	return 1;
}
SEC("tc") int irq_sub_own(void *ctx)
{
	return save_own();
}
static __noinline int rcu_open(void)
{
	bpf_rcu_read_lock();
	return in;
}
static __noinline int rcu_close(void)
{
	bpf_rcu_read_unlock();
	return in;
}
SEC("tc") int rcu_subs(void *ctx)
{
	rcu_open();
	rcu_close();
	return 0;
}
SEC("tc") int rcu_sub_left(void *ctx)
{
	rcu_open();
	return 0;
}
__noinline int rcu_global(int x)
{
	bpf_rcu_read_lock();
	return x;
}
SEC("tc") int rcu_in_global(void *ctx)
{
	return rcu_global(in);
}
__noinline int plain_global(int x)
{
	return x + in;
}
SEC("tc") int global_under_rcu(void *ctx)
{
	bpf_rcu_read_lock();
	int r = plain_global(3);
	bpf_rcu_read_unlock();
	return r;
}
SEC("tc") int global_under_irq(void *ctx)
{
	unsigned long f;
	bpf_local_irq_save(&f);
	int r = plain_global(3);
	bpf_local_irq_restore(&f);
	return r;
}
SEC("tc") int global_under_lock(void *ctx)
{
	bpf_spin_lock(&lock);
	int r = plain_global(3);
	bpf_spin_unlock(&lock);
	return r;
}
__noinline int sleepy_global(__u64 p)
{
	char b[8];
	return bpf_copy_from_user_str(b, 8, (void *)p, 0);
}
SEC("syscall") int sleepy(void *ctx)
{
	return sleepy_global(in);
}
SEC("syscall") int sleepy_preempt(void *ctx)
{
	bpf_preempt_disable();
	int r = sleepy_global(in);
	bpf_preempt_enable();
	return r;
}
static int cb_irq(__u32 i, void *p)
{
	unsigned long f;
	bpf_local_irq_save(&f);
	bpf_local_irq_restore(&f);
	return 0;
}
static int cb_irq_left(__u32 i, void *p)
{
	unsigned long f;
	bpf_local_irq_save(&f);
	return 0;
}
static int cb_rcu_left(__u32 i, void *p)
{
	bpf_rcu_read_lock();
	return 0;
}
static int cb_preempt_left(__u32 i, void *p)
{
	bpf_preempt_disable();
	return 0;
}
static int cb_task_left(__u32 i, void *p)
{
	bpf_task_from_pid(i);
	return 0;
}
static int cb_lock_left(__u32 i, void *p)
{
	bpf_spin_lock(&lock);
	return 0;
}
SEC("tc") int loop_irq(void *ctx)
{
	bpf_loop(in, cb_irq, 0, 0);
	return 0;
}
SEC("tc") int loop_irq_left(void *ctx)
{
	bpf_loop(in, cb_irq_left, 0, 0);
	return 0;
}
SEC("tc") int loop_rcu_left(void *ctx)
{
	bpf_loop(in, cb_rcu_left, 0, 0);
	return 0;
}
SEC("tc") int loop_preempt_left(void *ctx)
{
	bpf_loop(in, cb_preempt_left, 0, 0);
	return 0;
}
SEC("tc") int loop_task_left(void *ctx)
{
	bpf_loop(in, cb_task_left, 0, 0);
	return 0;
}
SEC("tc") int loop_lock_left(void *ctx)
{
	bpf_loop(in, cb_lock_left, 0, 0);
	return 0;
}
