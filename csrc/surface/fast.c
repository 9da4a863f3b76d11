/*
 * Element commands without a system call, for what loaders do in loops: one element of a plain map,
 * through memory that is there for certain. Whatever is not plain goes the long way (elem.c), which
 * has every check and errno; what is answered here is answered as there.
 *
 * Three things cost a system call each on the long way. The descriptor: its table entry is believed
 * if all changes since the last fstat have passed through this library, and for 1024 uses. Pointers:
 * this thread's stack, the heap below the break and the program's own segments can be read and
 * written without asking. The object: instead of a reference, a thread announces what it uses; who
 * unmaps makes all threads' announcements visible (membarrier) and waits for them.
 */
#include <linux/membarrier.h>
#include <link.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>

#include "surface.h"

enum { LOOKUP = 1, UPDATE = 2, DELETE = 3, NEXT_KEY = 4, TAKE = 21 };
enum {
	MAX_FAST_KEY = 64,
	MAX_FAST_ENTRY = 512 /* of a queue or stack, bytes */,
	MAX_FLAGS = 2 /* BPF_EXIST */
};
enum { THREADS = 1024, PROBES = 16, RANGES = 8, PATIENCE = 20000, LOOKS = 16 };

/* A thread by its fs base; in memory that fork children find empty. */
struct thread {
	u64 fs; /* 0: free */
	u64 stack_low, stack_high;
	struct surface_obj *using;
	u32 busy; /* a signal handler's call interrupts one: the long way */
	u32 tid; /* thread part of an owner word; 0: not filled in yet */
	u32 looks;
	u32 pad[5];
};
_Static_assert(sizeof(struct thread) == 64, "one cache line");

static struct thread *threads;
static struct range {
	u64 low, high;
	bool writable;
} ranges[RANGES]; /* of the program */
static u64 heap_low;
extern void *__curbrk __attribute__((weak)); /* glibc's break */

/* What a command's attr has: bytes that count, room for it in a table by command. */
static const u8 last_byte[] = {
	[LOOKUP] = 32, [UPDATE] = 32, [DELETE] = 16, [NEXT_KEY] = 24, [TAKE] = 32
};

/* ---- what there is once in a process ---- */

static u64 number(const char *text, u32 *at)
{
	u64 v = 0;

	for (;; ++*at) {
		char c = text[*at];

		if (c >= '0' && c <= '9')
			v = v << 4 | (u64)(c - '0');
		else if (c >= 'a' && c <= 'f')
			v = v << 4 | (u64)(c - 'a' + 10);
		else
			return v;
	}
}

/* One line of /proc/self/maps: the stack that this thread runs on, the heap. */
static void line_of_maps(const char *line, u32 len, struct thread *t, u64 sp)
{
	u32 at = 0;
	u64 low = number(line, &at), high;

	at++;
	high = number(line, &at);
	if (len < at + 5 || line[at + 1] != 'r' || line[at + 2] != 'w')
		return;
	if (sp >= low && sp < high) {
		t->stack_low = low;
		/* a thread's control block lies at the top of its stack; what follows may be another's */
		t->stack_high = t->fs > sp && t->fs < high ? t->fs : high;
	}
	if (len > 6 && line[len - 6] == '[' && line[len - 5] == 'h' && line[len - 4] == 'e')
		store_release(&heap_low, low);
}

static void read_maps(struct thread *t, u64 sp)
{
	char part[512], line[128];
	u32 len = 0;
	long fd = shim_sys3(SYS_open, "/proc/self/maps", 0x80000 /* O_CLOEXEC */, 0), n;

	if (fd < 0)
		return;
	while ((n = shim_sys3(SYS_read, fd, part, sizeof(part))) > 0)
		for (long i = 0; i < n; i++) {
			if (part[i] != '\n') {
				line[len] = part[i];
				len += len < sizeof(line) - 1;
				continue;
			}
			line[len] = 0;
			line_of_maps(line, len, t, sp);
			len = 0;
		}
	shim_sys1(SYS_close, fd);
}

/* The program's segments, without what is made read-only after relocation. */
static void find_ranges(void)
{
	const ElfW(Phdr) *phdr = (void *)getauxval(AT_PHDR);
	u64 count = getauxval(AT_PHNUM), base = 0, relro_low = 0, relro_high = 0;
	bool placed = false;
	u32 n = 0;

	for (u64 i = 0; phdr && i < count; i++) {
		if (phdr[i].p_type == PT_PHDR) {
			base = (u64)phdr - phdr[i].p_vaddr;
			placed = true;
		}
		if (phdr[i].p_type == PT_GNU_RELRO) {
			relro_low = phdr[i].p_vaddr;
			relro_high = (relro_low + phdr[i].p_memsz + SHIM_PAGE - 1) &
				     ~(u64)(SHIM_PAGE - 1);
		}
	}
	for (u64 i = count; placed && i && n < RANGES; i--) { /* data before text */
		u64 low = phdr[i - 1].p_vaddr, high = low + phdr[i - 1].p_memsz;

		if (phdr[i - 1].p_type != PT_LOAD || !(phdr[i - 1].p_flags & PF_R))
			continue;
		if (relro_high > low && relro_low < high)
			low = relro_high;
		if (low < high)
			ranges[n++] = (struct range){ base + low, base + high,
						      phdr[i - 1].p_flags & PF_W };
	}
}

/* False: not here, now or ever. */
static bool prepare(void)
{
	static u32 state; /* 0: not yet, 1: somebody does it, 2: done, 3: cannot be */
	u32 fresh = 0;
	long at;

	if (likely(load_acquire(&state) == 2))
		return true;
	if (!__atomic_compare_exchange_n(&state, &fresh, 1, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
		return false;
	at = shim_sys3(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0);
	if (!at)
		at = shim_sys6(SYS_mmap, 0, THREADS * sizeof(struct thread), PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if ((at < 0 && at > -4096) ||
	    shim_sys3(SYS_madvise, at, THREADS * sizeof(struct thread), MADV_WIPEONFORK)) {
		store_release(&state, 3);
		return false;
	}
	find_ranges();
	store_release(&threads, (struct thread *)at);
	store_release(&state, 2);
	return true;
}

/* ---- threads ---- */

static struct thread *self(void)
{
	u64 fs;
	u32 first;

	__asm__("movq %%fs:0, %0" : "=r"(fs)); /* the thread control block begins with its address */
	first = (u32)((fs >> 6) * 0x9e3779b1u) >> 22;
	for (u32 i = 0; i < PROBES; i++) {
		struct thread *t = &threads[(first + i) % THREADS];
		u64 seen = __atomic_load_n(&t->fs, __ATOMIC_RELAXED);

		if (likely(seen == fs))
			return t;
		if (!seen && __atomic_compare_exchange_n(&t->fs, &seen, fs, false, __ATOMIC_ACQ_REL,
							 __ATOMIC_RELAXED))
			return t;
	}
	return NULL;
}

/* Stack and heap as they are now: of a new thread, or one whose block a dead one has left. */
static bool look(struct thread *t, u64 sp)
{
	if (t->looks++ >= LOOKS) /* it changes stacks */
		return false;
	t->stack_low = t->stack_high = 0;
	read_maps(t, sp);
	t->tid = (u32)shim_sys0(SYS_gettid) & ((1U << SHIM_OWNER_THREAD_BITS) - 1);
	if (!t->tid)
		t->tid = 1;
	return true;
}

bool surface_fast_wait(const struct surface_obj *obj)
{
	struct thread *all = load_acquire(&threads);

	if (!all)
		return true;
	if (shim_sys3(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0))
		return false;
	for (u32 i = 0; i < THREADS; i++)
		for (u32 n = 0; load_acquire(&all[i].using) == obj; n++) {
			if (n == PATIENCE)
				return false; /* it is stopped, or we are its signal handler */
			shim_sys0(SYS_sched_yield);
		}
	return true;
}

/* ---- pointers ---- */

static bool in_program(u64 at, u64 end, bool writes)
{
	for (u32 i = 0; i < RANGES && ranges[i].high; i++)
		if (at >= ranges[i].low && end <= ranges[i].high)
			return ranges[i].writable || !writes;
	return false;
}

/* at is on this thread's stack, above the frame at sp; or in the heap; or in the program. */
static inline bool reaches(const struct thread *t, u64 sp, u64 at, u64 len, bool writes)
{
	u64 end = at + len;

	if (at >= sp && end <= t->stack_high && end >= at)
		return true;
	if (at >= heap_low && end <= (u64)(&__curbrk ? __curbrk : 0) && end >= at && heap_low)
		return true;
	return end >= at && in_program(at, end, writes);
}

/* ---- the commands ---- */

/* QUEUE, STACK: they have no keys. */
static bool keyless(u32 type)
{
	return type == 22 || type == 23;
}

static bool plain(u32 type)
{
	/* HASH, ARRAY, PERCPU_HASH, PERCPU_ARRAY, LRU_HASH, LRU_PERCPU_HASH, LPM_TRIE */
	return type < 12 && (0xe66 >> type & 1);
}

static u64 value_size(const struct shim_map_desc *d)
{
	bool percpu = d->type == 5 || d->type == 6 || d->type == 10;

	return percpu ? ((d->value_size + 7ULL) & ~7ULL) * d->nr_vcpus : d->value_size;
}

/* What is in the value where there was none is nobody's. */
static long on_queue(u32 cmd, const struct shim_map_desc *d, const u64 *attr, struct shim_run *run)
{
	u64 value[MAX_FAST_ENTRY / 8];
	long ret;

	if (attr[1] || cmd == DELETE || cmd == NEXT_KEY || d->value_size > MAX_FAST_ENTRY)
		return SURFACE_NOT_LOCAL;
	if (cmd == UPDATE)
		return shim_map_sys_update(d, NULL, (const void *)attr[2], attr[3], run);
	if (cmd == LOOKUP)
		ret = shim_map_sys_lookup(d, NULL, value, 0, run);
	else
		ret = shim_map_sys_lookup_and_delete(d, NULL, value, 0, run);
	if (!ret)
		memcpy((void *)attr[2], value, d->value_size);
	return ret;
}

static long on_map(u32 cmd, const u64 *attr, struct surface_obj *obj, const struct thread *t, u64 sp)
{
	const struct shim_map_hdr *hdr = (void *)(obj->base + obj->size - SHIM_PAGE);
	const struct shim_map_desc *d = &obj->desc;
	struct shim_run run; /* of which map operations look at these fields alone */
	u64 size = cmd == DELETE ? 0 : cmd == NEXT_KEY ? d->key_size : value_size(d);
	u64 key[MAX_FAST_KEY / 8], flags = cmd == DELETE || cmd == NEXT_KEY ? 0 : attr[3];
	void *value = (void *)attr[2];
	long ret;

	run.ctl = (u64)surface.ctl;
	run.thread = 0;
	run.owner = surface.self->owner | t->tid;
	run.vcpu = SHIM_NO_VCPU;
	if (d->key_size > MAX_FAST_KEY || load_acquire(&hdr->restricted) ||
	    load_acquire(&hdr->frozen) || !surface.self->owner)
		return SURFACE_NOT_LOCAL;
	if (flags > (cmd == UPDATE ? MAX_FLAGS : 0) ||
	    (size && !reaches(t, sp, attr[2], size, cmd != UPDATE)))
		return SURFACE_NOT_LOCAL;
	if (!plain(d->type))
		return keyless(d->type) ? on_queue(cmd, d, attr, &run) : SURFACE_NOT_LOCAL;
	if (attr[1]) {
		if (!reaches(t, sp, attr[1], d->key_size, false))
			return SURFACE_NOT_LOCAL;
		memcpy(key, (const void *)attr[1], d->key_size); /* it may be where the next goes */
	} else if (cmd != NEXT_KEY) {
		return SURFACE_NOT_LOCAL;
	}
	switch (cmd) {
	case LOOKUP: return shim_map_sys_lookup(d, key, value, 0, &run);
	case UPDATE:
		ret = shim_map_sys_update(d, key, value, flags, &run);
		return ret == -ENOMEM ? SURFACE_NOT_LOCAL : ret; /* elem.c asks for room */
	case DELETE: return shim_map_sys_delete(d, key, &run);
	case TAKE: /* HASH, PERCPU_HASH, LRU_HASH, LRU_PERCPU_HASH */
		return 0x622 >> d->type & 1 ? shim_map_sys_lookup_and_delete(d, key, value, 0, &run)
					    : SURFACE_NOT_LOCAL;
	default: return shim_map_sys_next_key(d, attr[1] ? key : NULL, value, &run);
	}
}

static bool zeroes(const u64 *attr, u32 from, u32 to)
{
	for (u32 i = from / 8; i < to / 8; i++)
		if (attr[i])
			return false;
	return true;
}

static long with_thread(u32 cmd, const u64 *attr, u32 size, struct thread *t, u64 sp)
{
	struct surface_obj *obj;
	long ret = SURFACE_NOT_LOCAL;

	if (!reaches(t, sp, (u64)attr, size, false) || !zeroes(attr, last_byte[cmd], size))
		return ret;
	obj = surface_obj_peek((int)(u32)attr[0], &t->using);
	if (obj)
		ret = on_map(cmd, attr, obj, t, sp);
	__atomic_store_n(&t->using, NULL, __ATOMIC_RELEASE);
	return ret;
}

long surface_fast(u32 cmd, u64 uattr, u32 size)
{
	u64 sp = (u64)__builtin_frame_address(0);
	struct thread *t;
	long ret = SURFACE_NOT_LOCAL;

	if (!surface.started || size < last_byte[cmd] || size > BPF_ATTR_SIZE || size % 8 ||
	    uattr % 8 || !surface.self->pid || !prepare())
		return ret;
	t = self();
	if (!t || t->busy)
		return ret;
	t->busy = 1;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	if (likely(sp >= t->stack_low && sp < t->stack_high) || look(t, sp))
		ret = with_thread(cmd, (const u64 *)uattr, size, t, sp);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	t->busy = 0;
	return ret;
}
