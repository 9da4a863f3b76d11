/* Batches of maps whose positions are keys. Source: generic_map_lookup_batch(), kernel/bpf/syscall.c. */
#include "runtime.h"

enum { ENOTSUPP_ = 524 };

static u64 value_bytes(const struct shim_map_desc *d)
{
	return d->type == BPF_MAP_TYPE_PERCPU_ARRAY ? round_up(d->value_size, 8) * d->nr_vcpus
						    : d->value_size;
}

long sys_batch(const struct shim_map_desc *d, const void *in_batch, void *out_batch, void *keys,
	       void *values, u32 *count, u64 flags, u32 del, struct shim_run *run)
{
	u8 prev[MAX_KEY], key[MAX_KEY];
	u64 size = value_bytes(d), turns = 4ULL * d->max_entries + 64; /* links may be a circle */
	u32 room = *count, n = 0;
	bool begun = in_batch;
	long err = 0;

	if (del)
		return -ENOTSUPP_;
	if (d->key_size > MAX_KEY)
		return -EINVAL;
	if (begun)
		memcpy(prev, in_batch, d->key_size);
	while (n < room) {
		if (!turns--) {
			err = -EBUSY;
			break;
		}
		err = shim_map_sys_next_key(d, begun ? prev : 0, key, run);
		if (err)
			break;
		err = shim_map_sys_lookup(d, key, (u8 *)values + n * size, flags, run);
		if (err && err != -ENOENT)
			break;
		if (!err)
			memcpy((u8 *)keys + (u64)n++ * d->key_size, key, d->key_size);
		err = 0;
		begun = true;
		memcpy(prev, key, d->key_size);
	}
	*count = n;
	if (n)
		memcpy(out_batch, prev, d->key_size);
	return err;
}
