/*
 * Maps by type: what every type has in common, and the kernel's errno where a type lacks an
 * operation (kernel/bpf/syscall.c, map_ops of each type).
 */
#include "runtime.h"

enum { MAP_TYPE_ARENA = 33 }; /* BPF_MAP_TYPE_ARENA, newer than Debian's linux/bpf.h */
enum { ENOTSUPP_ = 524, MAX_TYPES = 34 /* of Linux 6.18 */ };
enum { F_RDONLY_F_WRONLY = 3 << 3, PROG_BOTH = 3 << 7 };

static const struct map_ops *const all_ops[MAX_TYPES] = {
	[BPF_MAP_TYPE_ARRAY] = &array_ops,
	[BPF_MAP_TYPE_PERCPU_ARRAY] = &percpu_array_ops,
	[BPF_MAP_TYPE_HASH] = &hash_ops,
	[BPF_MAP_TYPE_PERCPU_HASH] = &percpu_hash_ops,
	[BPF_MAP_TYPE_QUEUE] = &queue_stack_ops,
	[BPF_MAP_TYPE_STACK] = &queue_stack_ops,
	[BPF_MAP_TYPE_LRU_HASH] = &lru_hash_ops,
	[BPF_MAP_TYPE_LRU_PERCPU_HASH] = &lru_percpu_hash_ops,
	[BPF_MAP_TYPE_LPM_TRIE] = &lpm_ops,
	[BPF_MAP_TYPE_RINGBUF] = &ringbuf_ops,
	[BPF_MAP_TYPE_USER_RINGBUF] = &ringbuf_ops,
	[BPF_MAP_TYPE_BLOOM_FILTER] = &bloom_ops,
	[BPF_MAP_TYPE_TASK_STORAGE] = &task_storage_ops,
	[MAP_TYPE_ARENA] = &arena_ops,
	[BPF_MAP_TYPE_PERF_EVENT_ARRAY] = &perf_array_ops,
	[BPF_MAP_TYPE_STACK_TRACE] = &stack_trace_ops,
	[BPF_MAP_TYPE_CGROUP_ARRAY] = &cgroup_array_ops,
	[BPF_MAP_TYPE_PROG_ARRAY] = &prog_array_ops,
	[BPF_MAP_TYPE_ARRAY_OF_MAPS] = &array_of_maps_ops,
	[BPF_MAP_TYPE_HASH_OF_MAPS] = &hash_of_maps_ops,
};

static inline const struct map_ops *ops_of(u32 type)
{
	return type < MAX_TYPES ? all_ops[type] : 0;
}

long shim_map_layout(struct shim_map_hdr *hdr)
{
	const struct map_ops *ops = ops_of(hdr->type);
	u32 flags = hdr->map_flags;

	if (!hdr->type || hdr->type >= MAX_TYPES)
		return -EINVAL;
	if ((flags & F_RDONLY_F_WRONLY) == F_RDONLY_F_WRONLY || (flags & PROG_BOTH) == PROG_BOTH)
		return -EINVAL;
	if (hdr->map_extra && hdr->type != BPF_MAP_TYPE_BLOOM_FILTER && hdr->type != MAP_TYPE_ARENA)
		return -EINVAL;
	if (!hdr->nr_vcpus || hdr->nr_vcpus > SHIM_MAX_VCPUS)
		return -EINVAL;
	return ops ? ops->layout(hdr) : absent_refuse(hdr);
}

long shim_map_format(void *base, const struct shim_map_hdr *hdr)
{
	const struct map_ops *ops = ops_of(hdr->type);
	long err;

	if (!ops)
		return -EOPNOTSUPP;
	err = ops->format ? ops->format(base, hdr) : 0;
	if (!err)
		memcpy((u8 *)base + hdr->file_size - SHIM_PAGE, hdr, sizeof(*hdr));
	return err;
}

/* 'at' is 0, or 1 + the offset of 'size' bytes that lie in a value. */
static bool inside(u32 at, u32 size, u32 value_size)
{
	return !at || (u64)at - 1 + size <= value_size;
}

long shim_map_desc_init(struct shim_map_desc *d, void *base, u64 file_size)
{
	struct shim_map_hdr hdr;
	const struct map_ops *ops;

	if (file_size < SHIM_PAGE || file_size % SHIM_PAGE)
		return -EINVAL;
	memcpy(&hdr, (u8 *)base + file_size - SHIM_PAGE, sizeof(hdr));
	ops = ops_of(hdr.type);
	if (hdr.magic != SHIM_MAP_MAGIC || hdr.version != SHIM_MAP_VERSION || !ops ||
	    hdr.file_size != file_size || hdr.mmap_size > file_size - SHIM_PAGE || !hdr.nr_vcpus ||
	    hdr.nr_vcpus > SHIM_MAX_VCPUS || (hdr.nr_buckets & (hdr.nr_buckets - 1)))
		return -EINVAL;
	if (ops->check(&hdr) || !inside(hdr.lock_at, 4, hdr.value_size) ||
	    !inside(hdr.timer_at, 16, hdr.value_size))
		return -EINVAL;
	*d = (struct shim_map_desc){
		.base = (u64)base,
		.type = hdr.type,
		.key_size = hdr.key_size,
		.value_size = hdr.value_size,
		.max_entries = hdr.max_entries,
		.map_flags = hdr.map_flags,
		.nr_vcpus = hdr.nr_vcpus,
		.stride = hdr.stride,
		.bucket_mask = hdr.nr_buckets ? hdr.nr_buckets - 1 : 0,
		.bucket_off = hdr.bucket_off,
		.elem_off = hdr.elem_off,
		.state_off = hdr.state_off,
		.file_size = file_size,
		.id = hdr.id,
		.nr_elems = hdr.nr_elems,
		.mmap_size = hdr.mmap_size,
		.map_extra = hdr.map_extra,
		.lock_at = hdr.lock_at,
		.timer_at = hdr.timer_at,
		.nr_cpus = hdr.nr_cpus,
	};
	if (ops == &lru_hash_ops || ops == &lru_percpu_hash_ops)
		lru_describe(d);
	if (ops == &percpu_hash_ops || ops == &lru_percpu_hash_ops)
		d->cpu_slots = hash_cpu_slots(d->nr_elems, d->value_size);
	if (ops == &percpu_array_ops)
		d->cpu_slots = array_cpu_slots(d->max_entries, d->value_size);
	return 0;
}

void *shim_map_lookup(const struct shim_map_desc *d, const void *key, struct shim_run *run)
{
	const struct map_ops *ops = ops_of(d->type);

	return ops && ops->lookup ? ops->lookup(d, key, run) : 0;
}

void *shim_map_lookup_percpu(const struct shim_map_desc *d, const void *key, u32 cpu,
			     struct shim_run *run)
{
	u32 own = run->vcpu;
	void *value;

	if (cpu >= d->nr_vcpus)
		return 0;
	run->vcpu = cpu;
	value = shim_map_lookup(d, key, run);
	run->vcpu = own;
	return value;
}

long shim_map_update(const struct shim_map_desc *d, const void *key, const void *value, u64 flags,
		     struct shim_run *run)
{
	const struct map_ops *ops;

	if (d->type == BPF_MAP_TYPE_HASH) /* most of them */
		return hash_update(d, key, value, flags, run);
	ops = ops_of(d->type);
	return ops && ops->update ? ops->update(d, key, value, flags, run) : -EINVAL;
}

long shim_map_delete(const struct shim_map_desc *d, const void *key, struct shim_run *run)
{
	const struct map_ops *ops;

	if (d->type == BPF_MAP_TYPE_HASH)
		return hash_delete(d, key, run);
	ops = ops_of(d->type);
	return ops && ops->del ? ops->del(d, key, run) : -EINVAL;
}

long shim_map_push(const struct shim_map_desc *d, const void *value, u64 flags, struct shim_run *run)
{
	const struct map_ops *ops = ops_of(d->type);

	return ops && ops->push ? ops->push(d, value, flags, run) : -EINVAL;
}

long shim_map_pop(const struct shim_map_desc *d, void *value, struct shim_run *run)
{
	const struct map_ops *ops = ops_of(d->type);

	return ops && ops->pop ? ops->pop(d, value, run) : -EINVAL;
}

long shim_map_peek(const struct shim_map_desc *d, void *value, struct shim_run *run)
{
	const struct map_ops *ops = ops_of(d->type);

	return ops && ops->peek ? ops->peek(d, value, run) : -EINVAL;
}

long shim_map_key_of(const struct shim_map_desc *d, u64 value, u64 *key, u32 *array_key)
{
	u64 off = value - d->base;

	if (d->type == BPF_MAP_TYPE_ARRAY) {
		*array_key = (u32)(off / d->stride);
		*key = (u64)array_key;
		return *array_key < d->max_entries ? 0 : -ENOENT;
	}
	if (d->type == BPF_MAP_TYPE_HASH || d->type == BPF_MAP_TYPE_LRU_HASH)
		return hash_key_of(d, off, key);
	return -ENOENT;
}

long map_each(const struct shim_map_desc *d, u64 fn, u64 ctx, struct shim_run *run)
{
	const struct map_ops *ops = ops_of(d->type);

	return ops && ops->each ? ops->each(d, fn, ctx, run) : -EINVAL;
}

u64 map_count(const struct shim_map_desc *d)
{
	const struct map_ops *ops = ops_of(d->type);

	return ops && ops->count ? ops->count(d) : 0;
}

long shim_map_sys_lookup(const struct shim_map_desc *d, const void *key, void *value, u64 flags,
			 struct shim_run *run)
{
	const struct map_ops *ops = ops_of(d->type);

	return ops && ops->sys_lookup ? ops->sys_lookup(d, key, value, flags, run) : -ENOTSUPP_;
}

long shim_map_sys_update(const struct shim_map_desc *d, const void *key, const void *value, u64 flags,
			 struct shim_run *run)
{
	const struct map_ops *ops = ops_of(d->type);

	return ops && ops->sys_update ? ops->sys_update(d, key, value, flags, run) : -EINVAL;
}

long shim_map_sys_delete(const struct shim_map_desc *d, const void *key, struct shim_run *run)
{
	return shim_map_delete(d, key, run);
}

long shim_map_sys_lookup_and_delete(const struct shim_map_desc *d, const void *key, void *value,
				    u64 flags, struct shim_run *run)
{
	const struct map_ops *ops = ops_of(d->type);

	return ops && ops->sys_take ? ops->sys_take(d, key, value, flags, run) : -ENOTSUPP_;
}

long shim_map_sys_next_key(const struct shim_map_desc *d, const void *key, void *next,
			   struct shim_run *run)
{
	const struct map_ops *ops = ops_of(d->type);

	return ops && ops->sys_next ? ops->sys_next(d, key, next, run) : -ENOTSUPP_;
}

u32 shim_map_position_size(const struct shim_map_desc *d)
{
	switch (d->type) {
	case BPF_MAP_TYPE_HASH:
	case BPF_MAP_TYPE_PERCPU_HASH:
	case BPF_MAP_TYPE_LRU_HASH:
	case BPF_MAP_TYPE_LRU_PERCPU_HASH:
	case BPF_MAP_TYPE_HASH_OF_MAPS: return 4;
	default: return d->key_size;
	}
}

long shim_map_sys_lookup_batch(const struct shim_map_desc *d, const void *in_batch, void *out_batch,
			       void *keys, void *values, u32 *count, u64 flags, u32 del,
			       struct shim_run *run)
{
	const struct map_ops *ops = ops_of(d->type);

	if (!ops || !ops->sys_batch)
		return -ENOTSUPP_;
	return ops->sys_batch(d, in_batch, out_batch, keys, values, count, flags, del, run);
}
