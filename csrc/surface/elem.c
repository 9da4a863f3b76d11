/*
 * Element commands on maps of ours: straight to shared memory, with the checks and errnos of
 * kernel/bpf/syscall.c in its order. Descriptor arrays go to the backend, which knows what
 * their values are.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include "surface.h"

enum { LOOKUP = 1, UPDATE = 2, DELETE = 3, NEXT_KEY = 4, LOOKUP_AND_DELETE = 21 };
enum { LOOKUP_BATCH = 24, LOOKUP_AND_DELETE_BATCH = 25, UPDATE_BATCH = 26, DELETE_BATCH = 27 };
enum { READS = 1, WRITES = 2 };
enum { ELEM_LOCK = 4 }; /* BPF_F_LOCK */
enum { ENOTSUPP_ = 524 };
enum { POSITION_MAX = 260 }; /* of a batch: a key of an LPM trie */
enum { /* enum bpf_map_type */
       T_HASH = 1,
       T_ARRAY = 2,
       T_PROG_ARRAY = 3,
       T_PERF_EVENT_ARRAY = 4,
       T_PERCPU_HASH = 5,
       T_PERCPU_ARRAY = 6,
       T_STACK_TRACE = 7,
       T_LRU_HASH = 9,
       T_LRU_PERCPU_HASH = 10,
       T_LPM_TRIE = 11,
       T_ARRAY_OF_MAPS = 12,
       T_HASH_OF_MAPS = 13,
       T_QUEUE = 22,
       T_STACK = 23,
       T_PERCPU_CGROUP_STORAGE = 21,
       T_BLOOM_FILTER = 30,
};

/* last: end of the last field the command has; a tail that is not zero is EINVAL (CHECK_ATTR). */
static const struct {
	u8 cmd, last, fd_off, needs;
} commands[] = {
	{ LOOKUP, 32, 0, READS },
	{ UPDATE, 32, 0, WRITES },
	{ DELETE, 16, 0, WRITES },
	{ NEXT_KEY, 24, 0, READS },
	{ LOOKUP_AND_DELETE, 32, 0, READS | WRITES },
	{ LOOKUP_BATCH, 56, 36, READS },
	{ LOOKUP_AND_DELETE_BATCH, 56, 36, READS | WRITES },
	{ UPDATE_BATCH, 56, 36, WRITES },
	{ DELETE_BATCH, 56, 36, WRITES },
};

/* Memory for one call: a part of the stack, or pages. */
struct room {
	u8 small[2048] __attribute__((aligned(8)));
	u8 *at;
	size_t size, used;
};

static long room_get(struct room *m, size_t size)
{
	long at;

	m->at = m->small;
	m->size = size;
	m->used = 0;
	if (size <= sizeof(m->small)) {
		memset(m->small, 0, size);
		return 0;
	}
	at = shim_sys6(SYS_mmap, 0, (long)size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (at < 0 && at > -4096)
		return -ENOMEM;
	m->at = (u8 *)at;
	return 0;
}

static void room_put(struct room *m)
{
	if (m->at != m->small)
		shim_sys2(SYS_munmap, m->at, m->size);
}

static u8 *room_part(struct room *m, size_t size)
{
	u8 *part = m->at + m->used;

	m->used += (size + 7) & ~7UL;
	return part;
}

static bool is_percpu(u32 type)
{
	return type == T_PERCPU_HASH || type == T_PERCPU_ARRAY || type == T_LRU_PERCPU_HASH ||
	       type == T_PERCPU_CGROUP_STORAGE;
}

/* Values that are descriptors on one side and objects on the other. */
static bool holds_objects(u32 type)
{
	return type == T_PROG_ARRAY || type == T_PERF_EVENT_ARRAY || type == T_ARRAY_OF_MAPS ||
	       type == T_HASH_OF_MAPS;
}

static u64 sys_value_size(const struct shim_map_desc *d)
{
	if (is_percpu(d->type))
		return ((d->value_size + 7ULL) & ~7ULL) * d->nr_vcpus;
	return holds_objects(d->type) ? 4 : d->value_size;
}

static bool is_hash(u32 type)
{
	return type == T_HASH || type == T_PERCPU_HASH || type == T_LRU_HASH ||
	       type == T_LRU_PERCPU_HASH || type == T_HASH_OF_MAPS;
}

/* map_*_batch of each type's map_ops; arrays have no delete, tries none that reads and deletes. */
static bool has_batch(u32 cmd, u32 type)
{
	switch (type) {
	case T_ARRAY:
	case T_PERCPU_ARRAY:
	case T_ARRAY_OF_MAPS: return cmd == LOOKUP_BATCH || cmd == UPDATE_BATCH;
	case T_LPM_TRIE: return cmd != LOOKUP_AND_DELETE_BATCH;
	default: return is_hash(type);
	}
}

static bool can_take(u32 type)
{
	return type == T_HASH || type == T_PERCPU_HASH || type == T_LRU_HASH ||
	       type == T_LRU_PERCPU_HASH || type == T_STACK_TRACE || type == T_QUEUE || type == T_STACK;
}

/* Thread part of our owner word: not the agent's index, which counts in another slot. */
static long run_init(struct shim_run *run)
{
	u32 owner = surface.self->owner;
	u32 tid = (u32)shim_sys0(SYS_gettid) & ((1U << SHIM_OWNER_THREAD_BITS) - 1);

	memset(run, 0, sizeof(*run));
	if (!owner) { /* a fork child that has not connected: a slot of its own */
		owner = shim_slot_claim(surface.ctl, (u32)shim_sys0(SYS_getpid), 0);
		if (!owner)
			return -EBUSY;
		surface.self->owner = owner;
	}
	run->ctl = (u64)surface.ctl;
	run->perf = (u64)surface.perf;
	run->perf_size = surface.perf_size;
	run->owner = owner | (tid ? tid : 1);
	run->vcpu = SHIM_NO_VCPU;
	return 0;
}

static long copy_key(u8 *key, u64 user, const struct shim_map_desc *d)
{
	if (!d->key_size)
		return user ? -EINVAL : 0;
	return shim_copy_from(key, user, d->key_size) ? -EFAULT : 0;
}

/* Memory of maps that were closed just now is free, once the backend has seen that they were. */
static long update(const struct shim_map_desc *d, const void *key, const void *value, u64 flags,
		   struct shim_run *run)
{
	long err = shim_map_sys_update(d, key, value, flags, run);

	if (err != -ENOMEM || rpc_simple(SHIM_OP_ROOM, NULL, 0, NULL, 0) < 0)
		return err;
	return shim_map_sys_update(d, key, value, flags, run);
}

static long one(u32 cmd, const struct shim_map_desc *d, const u8 *attr, struct shim_run *run,
		struct room *m)
{
	u64 ukey = attr_u64(attr, 8), uvalue = attr_u64(attr, 16), flags = attr_u64(attr, 24);
	u64 size = sys_value_size(d);
	u8 *key = room_part(m, d->key_size), *value = room_part(m, size), *next = value;
	long err;

	if (cmd == NEXT_KEY)
		next = room_part(m, d->key_size);
	if (cmd != NEXT_KEY || ukey) {
		err = copy_key(key, ukey, d);
		if (err)
			return err;
	}
	switch (cmd) {
	case LOOKUP:
		/* the value is the question, and may lie where nothing can be written */
		if (d->type == T_BLOOM_FILTER && shim_copy_from(value, uvalue, size))
			return -EFAULT;
		err = shim_map_sys_lookup(d, key, value, flags, run);
		if (d->type == T_BLOOM_FILTER)
			return err;
		return err ? err : shim_copy_to(uvalue, value, size) ? -EFAULT : 0;
	case UPDATE:
		if (size && shim_copy_from(value, uvalue, size))
			return -EFAULT;
		return update(d, key, value, flags, run);
	case DELETE: return shim_map_sys_delete(d, key, run);
	case NEXT_KEY:
		err = shim_map_sys_next_key(d, ukey ? key : NULL, next, run);
		return err ? err : shim_copy_to(uvalue, next, d->key_size) ? -EFAULT : 0;
	default: /* LOOKUP_AND_DELETE */
		if (!can_take(d->type))
			return -ENOTSUPP_;
		err = shim_map_sys_lookup_and_delete(d, key, value, flags, run);
		return err ? err : shim_copy_to(uvalue, value, size) ? -EFAULT : 0;
	}
}

static long flags_allowed(u32 cmd, const struct shim_map_desc *d, const u8 *attr)
{
	u64 flags = attr_u64(attr, 24);

	/* other flags of lookups were refused before */
	if ((cmd == LOOKUP || cmd == LOOKUP_AND_DELETE || cmd == UPDATE) && flags & ELEM_LOCK &&
	    !d->lock_at)
		return -EINVAL;
	if (cmd == LOOKUP_AND_DELETE && flags && (d->type == T_QUEUE || d->type == T_STACK))
		return -EINVAL;
	return 0;
}

static long single(u32 cmd, const struct shim_map_desc *d, const u8 *attr, struct shim_run *run)
{
	long err = flags_allowed(cmd, d, attr);
	struct room m;

	if (err)
		return err;
	err = room_get(&m, 2UL * d->key_size + sys_value_size(d) + 24);
	if (err)
		return err;
	err = one(cmd, d, attr, run, &m);
	room_put(&m);
	return err;
}

/* Who writes descriptors: the backend, which knows what they are. */
static long objects_way(u32 cmd, u64 flags)
{
	if (cmd == UPDATE && flags & ELEM_LOCK)
		return -EINVAL;
	return cmd == UPDATE || cmd == DELETE ? SURFACE_NOT_LOCAL : 0;
}

/* One element of a batch. */
static long write_one(u32 cmd, const struct shim_map_desc *d, int fd, const void *key,
		      const void *value, u64 flags, struct shim_run *run)
{
	if (holds_objects(d->type))
		return surface_elem_remote(cmd, fd, key, value, flags);
	if (cmd == DELETE)
		return shim_map_sys_delete(d, key, run);
	return update(d, key, value, flags, run);
}

/* BPF_MAP_UPDATE_BATCH, DELETE_BATCH: element by element; count becomes how many went well. */
static long batch_write(u32 cmd, const struct shim_map_desc *d, const u8 *attr, u64 uattr,
			struct shim_run *run)
{
	u64 keys = attr_u64(attr, 16), values = attr_u64(attr, 24), flags = attr_u64(attr, 40);
	u32 count = attr_u32(attr, 32), done;
	int fd = (int)attr_u32(attr, 36);
	u64 size = sys_value_size(d);
	struct room m;
	u8 *key, *value;
	long err = room_get(&m, d->key_size + size + 16);

	if (err)
		return err;
	key = room_part(&m, d->key_size);
	value = room_part(&m, size);
	for (done = 0; done < count && !err; done += !err) {
		if (shim_copy_from(key, keys + (u64)done * d->key_size, d->key_size))
			err = -EFAULT;
		else if (cmd == DELETE_BATCH)
			err = write_one(DELETE, d, fd, key, NULL, 0, run);
		else if (shim_copy_from(value, values + done * size, size))
			err = -EFAULT;
		else
			err = write_one(UPDATE, d, fd, key, value, flags, run);
	}
	room_put(&m);
	return shim_copy_to(uattr + 32, &done, 4) ? -EFAULT : err;
}

static long batch_read(u32 cmd, const struct shim_map_desc *d, const u8 *attr, u64 uattr,
		       struct shim_run *run)
{
	u64 in = attr_u64(attr, 0), flags = attr_u64(attr, 40), size = sys_value_size(d);
	u32 count = attr_u32(attr, 32), zero = 0, position = shim_map_position_size(d);
	u8 *keys, *values, from[POSITION_MAX], to[POSITION_MAX];
	bool del = cmd == LOOKUP_AND_DELETE_BATCH;
	struct room m;
	long err;

	if (position > POSITION_MAX)
		return -EINVAL;
	if (shim_copy_to(uattr + 32, &zero, 4) || (in && shim_copy_from(from, in, position)))
		return -EFAULT;
	if (count > d->max_entries)
		count = d->max_entries + 1; /* there cannot be more */
	err = room_get(&m, count * (d->key_size + size) + 16);
	if (err)
		return err;
	keys = room_part(&m, (size_t)count * d->key_size);
	values = room_part(&m, count * size);
	err = shim_map_sys_lookup_batch(d, in ? from : NULL, to, keys, values, &count, flags,
					del && !holds_objects(d->type), run);
	for (u32 i = 0; del && holds_objects(d->type) && i < count; i++)
		write_one(DELETE, d, (int)attr_u32(attr, 36), keys + (size_t)i * d->key_size, NULL, 0,
			  run);
	if (!err || err == -ENOENT || err == -ENOSPC)
		if (shim_copy_to(attr_u64(attr, 16), keys, (u64)count * d->key_size) ||
		    shim_copy_to(attr_u64(attr, 24), values, count * size) ||
		    ((count || is_hash(d->type)) && shim_copy_to(attr_u64(attr, 8), to, position)) ||
		    shim_copy_to(uattr + 32, &count, 4))
			err = -EFAULT;
	room_put(&m);
	return err;
}

static long batch(u32 cmd, const struct shim_map_desc *d, const u8 *attr, u64 uattr,
		  struct shim_run *run)
{
	bool writes = cmd == UPDATE_BATCH || cmd == DELETE_BATCH;

	if (!has_batch(cmd, d->type))
		return -ENOTSUPP_;
	if (attr_u64(attr, 40) & ~(u64)ELEM_LOCK || (attr_u64(attr, 40) && !d->lock_at))
		return -EINVAL;
	if (!writes && is_hash(d->type) && attr_u64(attr, 48)) /* the others look at no flags */
		return -EINVAL;
	if (!attr_u32(attr, 32))
		return 0;
	return (writes ? batch_write : batch_read)(cmd, d, attr, uattr, run);
}

/* map_get_sys_perms(): what the descriptor may do, unless the map is frozen. */
static bool may(u32 needs, const struct surface_obj *obj, int fd)
{
	const struct shim_map_hdr *hdr = (void *)(obj->base + obj->size - SHIM_PAGE);
	u32 mode = O_RDWR;

	if (unlikely(load_acquire(&hdr->restricted)))
		mode = surface_fd_mode(fd);
	if (needs & WRITES && (mode == O_RDONLY || load_acquire(&hdr->frozen)))
		return false;
	return !(needs & READS) || mode != O_WRONLY;
}

static long on_map(u32 cmd, u32 needs, struct surface_obj *obj, int fd, const u8 *attr, u64 uattr)
{
	struct shim_run run;
	long err = surface_obj_map(obj, fd);

	if (err)
		return err;
	if (!may(needs, obj, fd))
		return -EPERM;
	err = holds_objects(obj->desc.type) ? objects_way(cmd, attr_u64(attr, 24)) : 0;
	if (err)
		return err;
	err = run_init(&run);
	if (err)
		return err;
	return (cmd >= LOOKUP_BATCH ? batch(cmd, &obj->desc, attr, uattr, &run)
				    : single(cmd, &obj->desc, attr, &run));
}

long surface_elem(u32 cmd, const u8 *attr, u64 uattr)
{
	struct shim_fd_ref ref;
	struct surface_obj *obj;
	u32 i = 0;
	long ret;
	int fd;

	while (commands[i].cmd != cmd)
		i++;
	for (u32 j = commands[i].last; j < BPF_ATTR_SIZE; j++)
		if (attr[j])
			return -EINVAL;
	if ((cmd == LOOKUP || cmd == LOOKUP_AND_DELETE) && attr_u64(attr, 24) & ~(u64)ELEM_LOCK)
		return -EINVAL;
	if (!surface.started)
		return SURFACE_NOT_LOCAL; /* starts the session; it answers EBADF or EINVAL */
	if (!surface_self())
		return -EPERM;
	fd = (int)attr_u32(attr, commands[i].fd_off);
	if (surface_identity(fd, &ref))
		return -EBADF;
	obj = surface_obj_get(fd, SHIM_FD_MAP);
	if (!obj)
		return -EINVAL;
	ret = on_map(cmd, commands[i].needs, obj, fd, attr, uattr);
	surface_obj_put(obj);
	return ret;
}
