/* Memory of maps, against the session's limit: the kernel's ENOMEM of a memory cgroup. */
#include "runtime.h"

long shim_charge(struct shim_ctl *ctl, u64 bytes)
{
	u64 limit = __atomic_load_n(&ctl->map_limit, __ATOMIC_RELAXED);
	u64 used = __atomic_add_fetch(&ctl->map_used, bytes, __ATOMIC_RELAXED);

	if (!limit || (used <= limit && used >= bytes))
		return 0;
	shim_uncharge(ctl, bytes);
	return -ENOMEM;
}

void shim_uncharge(struct shim_ctl *ctl, u64 bytes)
{
	u64 used = __atomic_load_n(&ctl->map_used, __ATOMIC_RELAXED), left;

	/* never below nothing: a page counted twice here must not refuse everything later */
	do
		left = used > bytes ? used - bytes : 0;
	while (!__atomic_compare_exchange_n(&ctl->map_used, &used, left, true, __ATOMIC_RELAXED,
					    __ATOMIC_RELAXED));
}
