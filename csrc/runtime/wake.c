/* Producers wake whoever waits on the control page. */
#include "runtime.h"

enum { NR_FUTEX = 202, FUTEX_WAKE_ = 1, ALL = 1 << 30 };

void futex_wake(u32 *word)
{
	shim_sys6(NR_FUTEX, (long)word, FUTEX_WAKE_, ALL, 0, 0, 0);
}

void shim_wake(struct shim_ctl *ctl)
{
	__atomic_add_fetch(&ctl->wake_seq, 1, __ATOMIC_ACQ_REL);
	if (__atomic_load_n(&ctl->wake_waiters, __ATOMIC_ACQUIRE))
		futex_wake(&ctl->wake_seq);
}
