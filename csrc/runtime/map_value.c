/*
 * Values with fields that are not the loader's to read or write: struct bpf_spin_lock and struct
 * bpf_timer, where the value's BTF has them. And the element's lock, which is an owner word like
 * any other of ours. Source: copy_map_value() and its kin, include/linux/bpf.h.
 */
#include "runtime.h"

enum { LOCK_SIZE = 4, TIMER_SIZE = 16 };

/* All bytes but the fields; these are blanked, or left as they are. */
static void copy_around(const struct shim_map_desc *d, u8 *to, const u8 *from, bool blank)
{
	bool lock_first = d->lock_at && (!d->timer_at || d->lock_at < d->timer_at);
	u32 at[2] = { lock_first ? d->lock_at : d->timer_at, lock_first ? d->timer_at : d->lock_at };
	u32 size[2] = { lock_first ? LOCK_SIZE : TIMER_SIZE, lock_first ? TIMER_SIZE : LOCK_SIZE };
	u32 done = 0;

	for (u32 i = 0; i < 2 && at[i]; i++) {
		u32 field = at[i] - 1;

		if (field < done || size[i] > d->value_size - field)
			break; /* a header that lies */
		memcpy(to + done, from + done, field - done);
		if (blank)
			memset(to + field, 0, size[i]);
		done = field + size[i];
	}
	memcpy(to + done, from + done, d->value_size - done);
}

static bool plain(const struct shim_map_desc *d)
{
	return !(d->lock_at | d->timer_at);
}

void value_init(const struct shim_map_desc *d, void *to, const void *from)
{
	if (plain(d))
		copy_words(to, from, d->value_size);
	else
		copy_around(d, to, from, true);
}

static u32 *lock_of(const struct shim_map_desc *d, const void *value)
{
	return (u32 *)((u8 *)value + d->lock_at - 1);
}

long value_write(const struct shim_map_desc *d, void *to, const void *from, bool locked,
		 struct shim_run *run)
{
	long err = 0;

	if (plain(d)) {
		copy_words(to, from, d->value_size);
		return 0;
	}
	if (locked)
		err = run_lock(lock_of(d, to), run);
	if (err < 0)
		return err;
	copy_around(d, to, from, false);
	if (locked)
		run_unlock(lock_of(d, to), run);
	return 0;
}

long value_read(const struct shim_map_desc *d, void *to, const void *from, bool locked,
		struct shim_run *run)
{
	long err = 0;

	if (plain(d)) {
		copy_out(to, from, d->value_size);
		return 0;
	}
	if (locked)
		err = run_lock(lock_of(d, from), run);
	if (err < 0)
		return err;
	copy_around(d, to, from, true);
	if (locked)
		run_unlock(lock_of(d, from), run);
	return 0;
}
