/*
 * BPF_MAP_TYPE_TASK_STORAGE: a value a thread. Its slot lies within WINDOW places behind its thread
 * id's hash; the value's pages are made with the value. A slot is published by one store, removed by
 * one, and belongs to a thread that started when the slot says: what a thread that has ended left is
 * nobody's, and its slot is used again.
 *
 * A program's own thread is known by its owner word, so that only its first access asks when it
 * started (a system call). System calls name a thread by a pidfd of the calling process's. Source:
 * kernel/bpf/bpf_task_storage.c, bpf_local_storage.c.
 */
#include "runtime.h"

enum { CREATE_FLAGS = BPF_F_NO_PREALLOC | BPF_F_CLONE };
enum { MAX_VALUE = 65407 }; /* BPF_LOCAL_STORAGE_MAX_VALUE_SIZE; measured on Linux 6.18 */
enum { SLOTS = 8192, WINDOW = 64 };
enum { NR_READ = 0, NR_OPEN = 2, NR_CLOSE = 3, O_CLOEXEC_ = 02000000, FDINFO = 512 };

struct state {
	u32 lock;
	u32 pad;
};

struct slot {
	u32 tid; /* 0: never used */
	u32 live; /* 0: removed, or not there yet */
	u64 started; /* clock ticks, /proc/TID/stat */
	u32 owner; /* owner word of the thread's runs, once it had one; 0: not known */
	u32 pad;
};

/* Who is meant. */
struct who {
	u32 tid;
	u32 owner; /* 0: by number alone */
	u64 started; /* 0: not asked yet */
};

static long layout(struct shim_map_hdr *hdr)
{
	if (hdr->map_flags & ~(u32)CREATE_FLAGS || !(hdr->map_flags & BPF_F_NO_PREALLOC) ||
	    hdr->max_entries || hdr->key_size != 4 || !hdr->value_size)
		return -EINVAL;
	if (hdr->value_size > MAX_VALUE)
		return -E2BIG;
	hdr->stride = (u32)round_up(hdr->value_size, 8);
	hdr->mmap_size = 0;
	hdr->state_off = 0;
	hdr->bucket_off = 64;
	hdr->elem_off = round_up(64 + SLOTS * sizeof(struct slot), SHIM_PAGE);
	hdr->file_size = hdr->elem_off + round_up((u64)SLOTS * hdr->stride, SHIM_PAGE) + SHIM_PAGE;
	return 0;
}

static long check(const struct shim_map_hdr *hdr)
{
	struct shim_map_hdr want = *hdr;

	return !layout(&want) && want.stride == hdr->stride && !hdr->mmap_size && !hdr->state_off &&
			       hdr->bucket_off == 64 && want.elem_off == hdr->elem_off &&
			       want.file_size == hdr->file_size
		       ? 0
		       : -EINVAL;
}

/* The n-th place where a thread's slot may be. */
static u32 place(u32 tid, u32 n)
{
	return (tid * 0x9e3779b1u + n) % SLOTS;
}

static struct slot *slot_at(const struct shim_map_desc *d, u32 at)
{
	return (struct slot *)desc_at(d, d->bucket_off) + at;
}

static u64 value_off(const struct shim_map_desc *d, u32 at)
{
	return d->elem_off + (u64)at * d->stride;
}

static u64 start_of(const struct shim_map_desc *d, u32 tid)
{
	return thread_start((struct shim_ctl *)d->ctl, tid);
}

static bool belongs(const struct shim_map_desc *d, struct slot *s, struct who *who)
{
	if (who->owner && __atomic_load_n(&s->owner, __ATOMIC_RELAXED) == who->owner)
		return true;
	if (!who->started)
		who->started = start_of(d, who->tid);
	if (!who->started || s->started != who->started)
		return false;
	if (who->owner)
		__atomic_store_n(&s->owner, who->owner, __ATOMIC_RELAXED);
	return true;
}

/* The thread's slot, or SLOTS. */
static u32 find(const struct shim_map_desc *d, struct who *who)
{
	for (u32 n = 0; n < WINDOW; n++) {
		struct slot *s = slot_at(d, place(who->tid, n));
		u32 tid = __atomic_load_n(&s->tid, __ATOMIC_ACQUIRE);

		if (!tid)
			break;
		if (tid == who->tid && __atomic_load_n(&s->live, __ATOMIC_ACQUIRE) &&
		    belongs(d, s, who))
			return place(who->tid, n);
	}
	return SLOTS;
}

static bool is_free(const struct shim_map_desc *d, const struct slot *s)
{
	return !s->tid || !s->live || start_of(d, s->tid) != s->started;
}

/* Under the map's lock: a slot with this value, or -ENOMEM. */
static long make(const struct shim_map_desc *d, struct who *who, const void *value)
{
	if (!who->started)
		who->started = start_of(d, who->tid);
	for (u32 n = 0; n < WINDOW; n++) {
		u32 at = place(who->tid, n);
		struct slot *s = slot_at(d, at);

		if (!is_free(d, s))
			continue;
		if (!who->started || (!s->tid && map_populate(d, value_off(d, at), d->stride)))
			return -ENOMEM;
		__atomic_store_n(&s->live, 0, __ATOMIC_RELEASE);
		__atomic_store_n(&s->owner, who->owner, __ATOMIC_RELAXED);
		s->started = who->started;
		__atomic_store_n(&s->tid, who->tid, __ATOMIC_RELEASE);
		if (value)
			value_init(d, desc_at(d, value_off(d, at)), value);
		else
			memset(desc_at(d, value_off(d, at)), 0, d->value_size);
		__atomic_store_n(&s->live, 1, __ATOMIC_RELEASE);
		return at;
	}
	return -ENOMEM;
}

/* The thread's value, made with `value` (NULL: zeroes) if there is none. Negative errno. */
static long find_or_make(const struct shim_map_desc *d, struct who *who, const void *value,
			 struct shim_run *run)
{
	u32 *lock = &((struct state *)desc_at(d, d->state_off))->lock;
	long at = find(d, who);

	if (at < SLOTS)
		return at;
	if (run_lock(lock, run) < 0)
		return -EBUSY;
	at = find(d, who);
	if (at == SLOTS)
		at = make(d, who, value);
	run_unlock(lock, run);
	return at;
}

static struct who who_of(u32 tid, const struct shim_run *run)
{
	bool self = run->thread && tid == current_tid(run);

	return (struct who){ tid, self ? run->owner : 0, 0 };
}

void *task_storage_get(const struct shim_map_desc *d, u32 tid, const void *value, bool create,
		       struct shim_run *run)
{
	struct who who = who_of(tid, run);
	long at = create ? find_or_make(d, &who, value, run) : find(d, &who);

	return at >= 0 && at < SLOTS ? desc_at(d, value_off(d, (u32)at)) : 0;
}

static long forget(const struct shim_map_desc *d, struct who *who)
{
	u32 at = find(d, who), one = 1;

	if (at == SLOTS)
		return -ENOENT;
	return __atomic_compare_exchange_n(&slot_at(d, at)->live, &one, 0, false, __ATOMIC_ACQ_REL,
					   __ATOMIC_RELAXED)
		       ? 0
		       : -ENOENT;
}

long task_storage_delete(const struct shim_map_desc *d, u32 tid, struct shim_run *run)
{
	struct who who = who_of(tid, run);

	return forget(d, &who);
}

/* The number behind "Pid:" of a pidfd's fdinfo; 0: it is none; -1: its thread has ended. */
static s32 pid_line(const char *text, long len)
{
	for (long at = 0; at + 5 < len; at++) {
		s32 pid = 0;

		if (memcmp(text + at, "Pid:\t", 5) || (at && text[at - 1] != '\n'))
			continue;
		if (text[at + 5] == '-')
			return -1;
		for (at += 5; at < len && text[at] >= '0' && text[at] <= '9'; at++)
			pid = pid * 10 + (text[at] - '0');
		return pid;
	}
	return 0;
}

/* The thread that a key names: 0, -EBADF, -ENOENT. */
static long who_is(const struct shim_map_desc *d, const void *key, struct who *who)
{
	char path[32] = "/proc/self/fdinfo/", text[FDINFO];
	s32 fd = *(const s32 *)key, pid;
	u32 end = 18, digits = 1;
	long file, n;

	if (fd < 0)
		return -EBADF;
	for (s32 rest = fd / 10; rest; rest /= 10)
		digits++;
	for (u32 i = digits; i-- > 0; fd /= 10)
		path[end + i] = (char)('0' + fd % 10);
	file = shim_sys3(NR_OPEN, path, O_CLOEXEC_, 0);
	if (file < 0)
		return -EBADF;
	n = shim_sys3(NR_READ, file, text, sizeof(text));
	shim_sys1(NR_CLOSE, file);
	pid = pid_line(text, n);
	if (!pid)
		return -EBADF;
	*who = (struct who){ .tid = (u32)pid };
	if (pid > 0)
		who->started = start_of(d, who->tid);
	return who->started ? 0 : -ENOENT;
}

static long sys_lookup(const struct shim_map_desc *d, const void *key, void *value, u64 flags,
		       struct shim_run *run)
{
	struct who who;
	long err = who_is(d, key, &who);
	u32 at;

	if (err)
		return err;
	at = find(d, &who);
	if (at == SLOTS)
		return -ENOENT;
	return value_read(d, value, desc_at(d, value_off(d, at)), flags & BPF_F_LOCK, run);
}

static long sys_update(const struct shim_map_desc *d, const void *key, const void *value, u64 flags,
		       struct shim_run *run)
{
	u64 how = flags & ~(u64)BPF_F_LOCK;
	struct who who;
	long err = who_is(d, key, &who), at;

	if (err)
		return err;
	if (how > BPF_EXIST)
		return -EINVAL;
	at = find(d, &who);
	if (at == SLOTS && how == BPF_EXIST)
		return -ENOENT;
	if (at < SLOTS && how == BPF_NOEXIST)
		return -EEXIST;
	at = find_or_make(d, &who, value, run);
	if (at < 0)
		return at;
	return value_write(d, desc_at(d, value_off(d, (u32)at)), value, flags & BPF_F_LOCK, run);
}

static long del(const struct shim_map_desc *d, const void *key, struct shim_run *run)
{
	struct who who;
	long err = who_is(d, key, &who);

	(void)run;
	return err ? err : forget(d, &who);
}

const struct map_ops task_storage_ops = {
	.layout = layout,
	.check = check,
	.del = del,
	.sys_lookup = sys_lookup,
	.sys_update = sys_update,
};
