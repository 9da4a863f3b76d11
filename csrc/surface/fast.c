/*
 * Element commands without a system call, for what loaders do in loops: one element of a plain map,
 * through memory that is there for certain. Whatever is not plain goes the long way (elem.c), which
 * has every check and errno; what is answered here is answered as there.
 *
 * Three things cost a system call each on the long way. The descriptor: its table entry is believed
 * (fdtable.h). Pointers: this thread's stack, the heap below the break and the program's own segments
 * can be read and written without asking. The object: instead of a reference, a thread announces what
 * it uses; who unmaps makes all threads' announcements visible (membarrier) and waits for them.
 */
#include <linux/bpf.h>
#include <linux/membarrier.h>
#include <link.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>

#include "fdtable.h"

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
	struct surface_obj *using; /* not NULL: a signal handler's call interrupts one: the long way */
	u32 tid; /* thread part of an owner word; 0: not filled in yet */
	u32 looks;
	u64 pad[3];
};
_Static_assert(sizeof(struct thread) == 64, "one cache line");

static struct thread *threads;
static struct surface_obj looking; /* in `using` where it is none */
static struct range {
	u64 low, high;
	bool writable;
} ranges[RANGES]; /* of the program */
static u64 heap_low;
extern void *__curbrk __attribute__((weak)); /* glibc's break */

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

/* Where a thread is looked for first: blocks lie at the tops of stacks, or a multiple of 64 apart. */
static inline struct thread *first_place(u64 fs)
{
	u64 off = (fs ^ fs >> 6) & (THREADS - 1) * sizeof(struct thread);

	return (struct thread *)((u64)threads + off);
}

/* Of a thread that is not where it is looked for first. */
static __attribute__((noinline)) struct thread *find_self(u64 fs)
{
	u32 first = (u32)(first_place(fs) - threads);

	for (u32 i = 0; i < PROBES; i++) {
		struct thread *t = &threads[(first + i) % THREADS];
		u64 seen = __atomic_load_n(&t->fs, __ATOMIC_RELAXED);

		if (seen == fs)
			return t;
		if (!seen && __atomic_compare_exchange_n(&t->fs, &seen, fs, false, __ATOMIC_ACQ_REL,
							 __ATOMIC_RELAXED))
			return t;
	}
	return NULL;
}

/* NULL: it has no place. The table is there. */
static inline struct thread *self(void)
{
	struct thread *t;
	u64 fs;

	__asm__("movq %%fs:0, %0" : "=r"(fs)); /* the thread control block begins with its address */
	t = first_place(fs);
	return likely(__atomic_load_n(&t->fs, __ATOMIC_RELAXED) == fs) ? t : find_self(fs);
}

/* Stack and heap as they are now: of a new thread, or one whose block a dead one has left. */
static __attribute__((noinline)) bool look(struct thread *t, u64 sp)
{
	if (t->using || t->looks++ >= LOOKS) /* it changes stacks */
		return false;
	__atomic_store_n(&t->using, &looking, __ATOMIC_RELAXED);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	t->stack_low = t->stack_high = 0;
	read_maps(t, sp);
	t->tid = (u32)shim_sys0(SYS_gettid) & ((1U << SHIM_OWNER_THREAD_BITS) - 1);
	if (!t->tid)
		t->tid = 1;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	__atomic_store_n(&t->using, NULL, __ATOMIC_RELEASE);
	return sp >= t->stack_low && sp < t->stack_high;
}

bool surface_fast_wait(const struct surface_obj *obj, bool patient)
{
	struct thread *all = load_acquire(&threads), *me;
	u32 patience = patient ? PATIENCE : 0;

	if (!all)
		return true;
	if (shim_sys3(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0))
		return false;
	me = self();
	if (me && me->using == obj) /* we are its signal handler */
		return false;
	for (u32 i = 0; i < THREADS; i++)
		for (u32 n = 0; load_acquire(&all[i].using) == obj; n++) {
			if (n >= patience)
				return false; /* it is stopped, or not on a CPU */
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

static __attribute__((noinline)) bool beyond_stack(u64 at, u64 len, bool writes)
{
	u64 end = at + len;

	if (end < at)
		return false;
	if (at >= heap_low && end <= (u64)(&__curbrk ? __curbrk : 0) && heap_low)
		return true;
	return in_program(at, end, writes);
}

/* What a call may touch of its stack: above its own frame. */
struct stack {
	u64 low, size;
};

static inline bool on_stack(struct stack s, u64 at, u64 len)
{
	u64 off = at - s.low;

	return off <= s.size && len <= s.size - off;
}

/* at is on this thread's stack, or in the heap, or in the program. */
static inline bool reaches(struct stack s, u64 at, u64 len, bool writes)
{
	return likely(on_stack(s, at, len)) || beyond_stack(at, len, writes);
}

/* ---- the commands ---- */

/* Of a map of this type. */
static u32 ways(const struct shim_map_desc *d)
{
	u32 of_each = 1 << LOOKUP | 1 << UPDATE;

	if (d->key_size > MAX_FAST_KEY)
		return 0;
	switch (d->type) {
	case BPF_MAP_TYPE_HASH:
	case BPF_MAP_TYPE_PERCPU_HASH:
	case BPF_MAP_TYPE_LRU_HASH:
	case BPF_MAP_TYPE_LRU_PERCPU_HASH: return of_each | 1 << DELETE | 1 << NEXT_KEY | 1 << TAKE;
	case BPF_MAP_TYPE_ARRAY:
	case BPF_MAP_TYPE_PERCPU_ARRAY:
	case BPF_MAP_TYPE_LPM_TRIE: return of_each | 1 << DELETE | 1 << NEXT_KEY;
	case BPF_MAP_TYPE_QUEUE:
	case BPF_MAP_TYPE_STACK: return d->value_size > MAX_FAST_ENTRY ? 0 : of_each | 1 << TAKE;
	default: return 0;
	}
}

void surface_fast_describe(struct surface_obj *obj)
{
	const struct shim_map_desc *d = &obj->desc;
	bool percpu = d->type == BPF_MAP_TYPE_PERCPU_HASH || d->type == BPF_MAP_TYPE_PERCPU_ARRAY ||
		      d->type == BPF_MAP_TYPE_LRU_PERCPU_HASH;

	obj->ways = ways(d);
	obj->value_bytes = percpu ? ((d->value_size + 7ULL) & ~7ULL) * d->nr_vcpus : d->value_size;
}

/* What a command's attr says, read once. */
struct command {
	u32 cmd;
	u64 key, value, flags;
};

/* QUEUE, STACK: they have no keys. What is in the value where there was none is nobody's. */
static __attribute__((noinline)) long on_queue(struct command c, const struct shim_map_desc *d,
					       struct shim_run *run)
{
	u64 value[MAX_FAST_ENTRY / 8];
	long ret;

	if (c.cmd == UPDATE)
		return shim_map_sys_update(d, NULL, (const void *)c.value, c.flags, run);
	if (c.cmd == LOOKUP)
		ret = shim_map_sys_lookup(d, NULL, value, 0, run);
	else
		ret = shim_map_sys_lookup_and_delete(d, NULL, value, 0, run);
	if (!ret)
		memcpy((void *)c.value, value, d->value_size);
	return ret;
}

/* A copy of the key, which may lie where the next one goes, and change meanwhile. A word that was
 * written in halves just now is read in halves. */
static inline bool get_key(u64 *key, const struct shim_map_desc *d, struct stack s, u64 at)
{
	const u32 *from = (const u32 *)at;

	if (unlikely(!at || !reaches(s, at, d->key_size, false)))
		return false;
	if (d->key_size == 4)
		*(u32 *)key = *from;
	else if (d->key_size == 8)
		*key = from[0] | (u64)from[1] << 32;
	else
		memcpy(key, from, d->key_size);
	return true;
}

/* Flags and the value's place are right. */
static inline long on_map(struct command c, const struct shim_map_desc *d, struct stack s,
			  struct shim_run *run)
{
	u64 key[MAX_FAST_KEY / 8];
	void *value = (void *)c.value;
	long ret;

	if (unlikely(!d->key_size))
		return c.key ? SURFACE_NOT_LOCAL : on_queue(c, d, run);
	if (unlikely(!get_key(key, d, s, c.key)))
		return c.key || c.cmd != NEXT_KEY ? SURFACE_NOT_LOCAL
						  : shim_map_sys_next_key(d, NULL, value, run);
	switch (c.cmd) {
	case LOOKUP: return shim_map_sys_lookup(d, key, value, 0, run);
	case UPDATE:
		ret = shim_map_sys_update(d, key, value, c.flags, run);
		return unlikely(ret == -ENOMEM) ? SURFACE_NOT_LOCAL : ret; /* elem.c asks for room */
	case DELETE: return shim_map_sys_delete(d, key, run);
	case NEXT_KEY: return shim_map_sys_next_key(d, key, value, run);
	default: return shim_map_sys_lookup_and_delete(d, key, value, 0, run);
	}
}

/* Flags, and the value's place. */
static inline bool allowed(struct command c, const struct surface_obj *obj, struct stack s)
{
	const struct shim_map_hdr *hdr = (void *)(obj->base + obj->size - SHIM_PAGE);

	if (unlikely(!(obj->ways >> c.cmd & 1) || load_acquire(&hdr->restricted) ||
		     load_acquire(&hdr->frozen)))
		return false;
	switch (c.cmd) {
	case UPDATE: return c.flags <= MAX_FLAGS && reaches(s, c.value, obj->value_bytes, false);
	case DELETE: return !(c.flags | c.value);
	case NEXT_KEY: return !c.flags && reaches(s, c.value, obj->desc.key_size, true);
	default: return !c.flags && reaches(s, c.value, obj->value_bytes, true);
	}
}

/* A descriptor that is not believed, or no longer. */
static __attribute__((noinline)) struct surface_obj *ask(u32 fd, struct thread *t)
{
	return surface_fd_believe((int)fd) ? surface_obj_peek(fd, &t->using) : NULL;
}

static inline long with_thread(struct command c, u32 fd, struct thread *t, struct stack s)
{
	struct surface_obj *obj = surface_obj_peek(fd, &t->using);
	u32 owner = surface.self->owner;
	struct shim_run run; /* of which map operations look at these fields alone */
	long ret = SURFACE_NOT_LOCAL;

	if (unlikely(!obj))
		obj = ask(fd, t);
	if (likely(obj && owner && allowed(c, obj, s))) {
		run.ctl = obj->desc.ctl;
		run.thread = 0;
		run.owner = owner | t->tid;
		run.vcpu = SHIM_NO_VCPU;
		ret = on_map(c, &obj->desc, s, &run);
	}
	__atomic_store_n(&t->using, NULL, __ATOMIC_RELEASE);
	return ret;
}

enum { COMMANDS = 1 << LOOKUP | 1 << UPDATE | 1 << DELETE | 1 << NEXT_KEY | 1 << TAKE };
enum { BYTES = 32, BYTES_OF_NEXT_KEY = 24 }; /* of the attr that these have fields in */

/* An attr of another size: what is missing is 0, and so must be what is more. */
static __attribute__((noinline)) bool of_size(const u64 *attr, u32 size, u64 *copy)
{
	if (size > BPF_ATTR_SIZE)
		return false;
	for (u32 i = 0; i < BYTES / 8; i++)
		copy[i] = i < size / 8 ? attr[i] : 0;
	for (u32 i = BYTES / 8; i < size / 8; i++)
		if (attr[i])
			return false;
	return true;
}

/* No thread has come this far. */
static __attribute__((noinline)) long begin(u32 cmd, u64 uattr, u32 size)
{
	if (surface.started && surface.self->pid && prepare())
		return surface_bpf(cmd, uattr, size);
	return surface_bpf_slow(cmd, uattr, size);
}

long surface_bpf(u32 cmd, u64 uattr, u32 size)
{
	struct stack s = { (u64)__builtin_frame_address(0), 0 };
	const u64 *attr = (const u64 *)uattr;
	u64 copy[BYTES / 8], flags = 0;
	struct thread *t;
	long ret;

	if (unlikely(cmd > TAKE || !(COMMANDS >> cmd & 1)))
		return surface_bpf_slow(cmd, uattr, size);
	if (unlikely(!load_acquire(&threads)))
		return begin(cmd, uattr, size);
	t = self();
	if (unlikely(!t || t->using))
		return surface_bpf_slow(cmd, uattr, size);
	if (unlikely(s.low < t->stack_low || s.low >= t->stack_high) && !look(t, s.low))
		return surface_bpf_slow(cmd, uattr, size);
	s.size = t->stack_high - s.low;
	if (unlikely((uattr | size) & 7 || !reaches(s, uattr, size, false)))
		return surface_bpf_slow(cmd, uattr, size);
	if (likely(size == BYTES)) {
		flags = attr[3];
	} else if (size != BYTES_OF_NEXT_KEY) {
		if (!of_size(attr, size, copy))
			return surface_bpf_slow(cmd, uattr, size);
		attr = copy;
		flags = attr[3];
	}
	/* the first field as what it is: half a word that was written just now */
	ret = with_thread((struct command){ cmd, attr[1], attr[2], flags }, attr_u32(attr, 0), t, s);
	return likely(ret != SURFACE_NOT_LOCAL) ? ret : surface_bpf_slow(cmd, uattr, size);
}
