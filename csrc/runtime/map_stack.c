/*
 * BPF_MAP_TYPE_STACK_TRACE: an index of buckets, and behind it the bucket's stacks, whose pages
 * are made when a stack is first put there. A bucket is one word (hash, number of frames): 0 while
 * its stack is being written, published by one store, so that of a dead writer there is no stack.
 * Readers take no lock: a word that is the same before and after was valid between.
 *
 * Hash and number of buckets are the kernel's. It has max_entries elements and takes a new one
 * before it gives an old one back: 'used' counts them. Source: kernel/bpf/stackmap.c.
 */
#include "runtime.h"

enum { CREATE_FLAGS = BPF_F_NUMA_NODE | BPF_F_RDONLY | BPF_F_WRONLY | BPF_F_STACK_BUILD_ID };
enum {
	STACKID_FLAGS = BPF_F_SKIP_FIELD_MASK | BPF_F_USER_STACK | BPF_F_FAST_STACK_CMP |
			BPF_F_REUSE_STACKID
};
enum { RETRIES = 16, LOOK_EVERY = 64 };
enum { HASH_BITS = 32, COUNT_BITS = 8, COUNT_MASK = (1 << COUNT_BITS) - 1 };

struct state {
	u32 used; /* buckets with a stack; exact, but for writers that were killed */
	u32 full; /* how often nothing was free */
};

struct bucket {
	u32 lock;
	u32 pad;
	u64 word; /* hash | frames << 32 | times changed << 40; no frames: empty */
};

static u32 entry_size(u32 flags)
{
	return flags & BPF_F_STACK_BUILD_ID ? sizeof(struct bpf_stack_build_id) : 8;
}

static long layout(struct shim_map_hdr *hdr)
{
	u32 entry = entry_size(hdr->map_flags);
	u64 buckets = 1;

	if (hdr->map_flags & ~(u32)CREATE_FLAGS)
		return -EINVAL;
	if (!hdr->max_entries || hdr->key_size != 4 || hdr->value_size < 8 || hdr->value_size % 8)
		return -EINVAL;
	if (hdr->value_size % entry || hdr->value_size / entry > STACK_MAX)
		return -EINVAL;
	if (hdr->max_entries > 1u << 31)
		return -E2BIG;
	while (buckets < hdr->max_entries)
		buckets *= 2;
	hdr->nr_buckets = (u32)buckets;
	hdr->stride = hdr->value_size;
	hdr->mmap_size = 0;
	hdr->state_off = 0;
	hdr->bucket_off = 64;
	hdr->elem_off = round_up(64 + buckets * sizeof(struct bucket), SHIM_PAGE);
	hdr->file_size = hdr->elem_off + round_up(buckets * hdr->stride, SHIM_PAGE) + SHIM_PAGE;
	return 0;
}

static long check(const struct shim_map_hdr *hdr)
{
	struct shim_map_hdr want = *hdr;

	return !layout(&want) && want.nr_buckets == hdr->nr_buckets && want.stride == hdr->stride &&
			       !hdr->mmap_size && !hdr->state_off && hdr->bucket_off == 64 &&
			       want.elem_off == hdr->elem_off && want.file_size == hdr->file_size
		       ? 0
		       : -EINVAL;
}

static u32 nr_buckets(const struct shim_map_desc *d)
{
	return d->bucket_mask + 1;
}

static struct bucket *bucket_at(const struct shim_map_desc *d, u32 id)
{
	return (struct bucket *)desc_at(d, d->bucket_off) + id;
}

static u64 stack_off(const struct shim_map_desc *d, u32 id)
{
	return d->elem_off + (u64)id * d->stride;
}

static void *stack_at(const struct shim_map_desc *d, u32 id)
{
	return desc_at(d, stack_off(d, id));
}

static u64 load_word(const struct shim_map_desc *d, u32 id)
{
	return __atomic_load_n(&bucket_at(d, id)->word, __ATOMIC_ACQUIRE);
}

/* Frames of a bucket's word, no more than there is room for. */
static u32 frames(const struct shim_map_desc *d, u64 word)
{
	u32 n = (u32)(word >> HASH_BITS) & COUNT_MASK, room = d->value_size / entry_size(d->map_flags);

	return n < room ? n : room;
}

static u64 next_word(u64 before, u32 hash, u32 count)
{
	u64 times = (before >> (HASH_BITS + COUNT_BITS)) + 1;

	return hash | (u64)count << HASH_BITS | times << (HASH_BITS + COUNT_BITS);
}

static u32 change_used(const struct shim_map_desc *d, u32 by)
{
	return __atomic_add_fetch(&((struct state *)desc_at(d, d->state_off))->used, by,
				  __ATOMIC_RELAXED);
}

/* Is there an element left for another stack? Counts again now and then if not: the dead may have
 * left the number wrong. */
static bool has_room(const struct shim_map_desc *d)
{
	struct state *s = desc_at(d, d->state_off);
	u32 used = 0;

	if (__atomic_load_n(&s->used, __ATOMIC_RELAXED) < d->max_entries)
		return true;
	if (__atomic_fetch_add(&s->full, 1, __ATOMIC_RELAXED) % LOOK_EVERY)
		return false;
	for (u32 i = 0; i < nr_buckets(d); i++)
		used += frames(d, load_word(d, i)) != 0;
	__atomic_store_n(&s->used, used, __ATOMIC_RELAXED);
	return used < d->max_entries;
}

/* A stack as the map holds it. */
struct stack {
	u64 ip[STACK_MAX];
	u32 count, hash;
};

static bool same(const struct shim_map_desc *d, u32 id, const struct stack *s)
{
	if (frames(d, load_word(d, id)) != s->count)
		return false;
	if (!(d->map_flags & BPF_F_STACK_BUILD_ID))
		return !memcmp(stack_at(d, id), s->ip, s->count * 8ul);
	for (u32 i = 0; i < s->count; i++)
		if (((struct bpf_stack_build_id *)stack_at(d, id))[i].ip != s->ip[i])
			return false;
	return true;
}

static void write_stack(const struct shim_map_desc *d, u32 id, const struct stack *s)
{
	if (!(d->map_flags & BPF_F_STACK_BUILD_ID))
		memcpy(stack_at(d, id), s->ip, s->count * 8ul);
	else
		for (u32 i = 0; i < s->count; i++)
			stack_build_id((struct bpf_stack_build_id *)stack_at(d, id) + i, s->ip[i]);
}

/* Under the bucket's lock. */
static long put(const struct shim_map_desc *d, u32 id, const struct stack *s, u64 flags)
{
	u64 *word = &bucket_at(d, id)->word, before = load_word(d, id), empty;
	bool full = frames(d, before) != 0;

	if (full && (u32)before == s->hash && same(d, id, s))
		return id;
	if (full && !(flags & BPF_F_REUSE_STACKID))
		return -EEXIST;
	/* a bucket that was used has its pages */
	if (!has_room(d) || (!before && map_populate(d, stack_off(d, id), d->stride)))
		return -ENOMEM;
	empty = next_word(before, 0, 0);
	__atomic_store_n(word, empty, __ATOMIC_RELEASE);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	write_stack(d, id, s);
	__atomic_store_n(word, next_word(empty, s->hash, s->count), __ATOMIC_RELEASE);
	if (!full)
		change_used(d, 1);
	return id;
}

long stack_id(const struct shim_map_desc *d, u64 flags, struct shim_run *run)
{
	u32 skip = flags & BPF_F_SKIP_FIELD_MASK, room = d->value_size / entry_size(d->map_flags);
	bool build_id = d->map_flags & BPF_F_STACK_BUILD_ID;
	struct stack s;
	u64 word;
	u32 id, n;
	long ret;

	if (flags & ~(u64)STACKID_FLAGS)
		return -EINVAL;
	n = flags & BPF_F_USER_STACK ? stack_walk(run, s.ip, skip, room) : 0;
	if (n <= skip)
		return -EFAULT;
	s.count = n - skip;
	s.hash = jhash(s.ip, s.count * 8ul, 0);
	id = s.hash & d->bucket_mask;
	word = load_word(d, id);
	if (frames(d, word) && (u32)word == s.hash) {
		if (flags & BPF_F_FAST_STACK_CMP)
			return id;
		if (!build_id && same(d, id, &s) && load_word(d, id) == word)
			return id;
	}
	if (build_id && !has_room(d))
		return -ENOMEM;
	if (frames(d, word) && (u32)word != s.hash && !(flags & BPF_F_REUSE_STACKID))
		return -EEXIST;
	if (run_lock(&bucket_at(d, id)->lock, run) < 0)
		return -EBUSY;
	ret = put(d, id, &s, flags);
	run_unlock(&bucket_at(d, id)->lock, run);
	return ret;
}

static void read_stack(const struct shim_map_desc *d, u32 id, u64 word, void *value)
{
	u64 size = (u64)frames(d, word) * entry_size(d->map_flags);

	memcpy(value, stack_at(d, id), size);
	memset((u8 *)value + size, 0, d->value_size - size);
}

static long sys_lookup(const struct shim_map_desc *d, const void *key, void *value, u64 flags,
		       struct shim_run *run)
{
	u32 id = *(const u32 *)key;

	(void)flags, (void)run;
	for (u32 i = 0; i < RETRIES && id < nr_buckets(d); i++) {
		u64 word = load_word(d, id);

		if (!frames(d, word))
			return -ENOENT;
		read_stack(d, id, word, value);
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		if (load_word(d, id) == word)
			return 0;
	}
	return -ENOENT;
}

/* Empties a bucket; what it held into value, if that is not NULL. */
static long take_away(const struct shim_map_desc *d, u32 id, void *value, struct shim_run *run)
{
	struct bucket *b = bucket_at(d, id);
	bool full;

	if (run_lock(&b->lock, run) < 0)
		return -EBUSY;
	full = frames(d, load_word(d, id)) != 0;
	if (full) {
		if (value)
			read_stack(d, id, load_word(d, id), value);
		__atomic_store_n(&b->word, next_word(b->word, 0, 0), __ATOMIC_RELEASE);
		change_used(d, -1u);
	}
	run_unlock(&b->lock, run);
	return full ? 0 : -ENOENT;
}

static long del(const struct shim_map_desc *d, const void *key, struct shim_run *run)
{
	u32 id = *(const u32 *)key;

	return id < nr_buckets(d) ? take_away(d, id, 0, run) : -E2BIG;
}

static long sys_take(const struct shim_map_desc *d, const void *key, void *value, u64 flags,
		     struct shim_run *run)
{
	u32 id = *(const u32 *)key;

	if (flags)
		return -EINVAL;
	return id < nr_buckets(d) ? take_away(d, id, value, run) : -ENOENT;
}

static long sys_next(const struct shim_map_desc *d, const void *key, void *next, struct shim_run *run)
{
	u32 id = key ? *(const u32 *)key : nr_buckets(d);

	(void)run;
	id = id < nr_buckets(d) && frames(d, load_word(d, id)) ? id + 1 : 0;
	while (id < nr_buckets(d) && !frames(d, load_word(d, id)))
		id++;
	if (id == nr_buckets(d))
		return -ENOENT;
	*(u32 *)next = id;
	return 0;
}

const struct map_ops stack_trace_ops = {
	.layout = layout,
	.check = check,
	.del = del,
	.sys_lookup = sys_lookup,
	.sys_take = sys_take,
	.sys_next = sys_next,
};
