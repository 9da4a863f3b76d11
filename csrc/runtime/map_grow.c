/* Memory for parts of a map that was created without: an errno where there is none, never SIGBUS. */
#include "runtime.h"

enum { NR_MADVISE = 28, MADV_POPULATE_WRITE_ = 23 };
enum { GROW_BY = 1 << 16 }; /* bytes of elements and values */

long map_populate(const struct shim_map_desc *d, u64 off, u64 size)
{
	u64 first = off / SHIM_PAGE * SHIM_PAGE, end = round_up(off + size, SHIM_PAGE);
	u64 fresh = end - round_up(off, SHIM_PAGE); /* the page before is there already */

	if (off + size < off || end > d->file_size)
		return -EINVAL;
	if (shim_charge(desc_ctl(d), fresh))
		return -ENOMEM;
	if (!shim_sys3(NR_MADVISE, d->base + first, end - first, MADV_POPULATE_WRITE_))
		return 0;
	shim_uncharge(desc_ctl(d), fresh);
	return -ENOMEM;
}

static long back(const struct shim_map_desc *d, u32 first, u64 n, u64 values_off)
{
	u64 size = round_up(d->value_size, 8), cpu_size = d->cpu_slots * size;
	long err = map_populate(d, d->elem_off + (u64)first * d->stride, n * d->stride);

	for (u32 cpu = 0; !err && values_off && cpu < d->nr_vcpus; cpu++)
		err = map_populate(d, values_off + cpu * cpu_size + first * size, n * size);
	return err;
}

long grow(const struct shim_map_desc *d, u32 first, u32 *grown, u64 values_off)
{
	u64 each = d->stride + (values_off ? round_up(d->value_size, 8) * d->nr_vcpus : 0);
	u32 left = d->nr_elems - first, n = (u32)(GROW_BY / each) + 1;
	long err;

	if (n > left)
		n = left;
	err = back(d, first, n, values_off);
	if (err && n > 1) {
		n = 1;
		err = back(d, first, n, values_off);
	}
	if (!err)
		*grown = first + n;
	return err;
}
