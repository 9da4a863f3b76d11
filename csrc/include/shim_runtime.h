/*
 * The runtime: maps, rings, helpers, locks. Freestanding C (no libc symbol, no TLS, general
 * registers only), the same code in a target, in the loader's surface and in _native.
 *
 * Everything here is safe against concurrent use by threads and processes, against signals
 * (a run interrupted while it holds a lock is not re-entered, see the guard), and against
 * kill -9 of any holder. Nothing allocates; nothing touches errno.
 * Results are >= 0 or a negative errno, with the meaning of the bpf(2) command named.
 */
#ifndef SHIM_RUNTIME_H
#define SHIM_RUNTIME_H

#include "shim_types.h"
#include "shim_ctl.h"
#include "shim_map.h"
#include "shim_run.h"
#include "shim_unwind.h"

/* Checks a mapped header against file_size and fills d (ctl and perf are the caller's to fill
 * in). -EINVAL: not a map of this version, or an offset outside. */
long shim_map_desc_init(struct shim_map_desc *d, void *base, u64 file_size);

/* Lays out a new map. shim_map_layout: from hdr's type, sizes, flags and numbers of CPUs, fills in
 * the rest (file_size, mmap_size, offsets); -EINVAL, -E2BIG, -EOPNOTSUPP as MAP_CREATE.
 * shim_map_format: writes the initial content into a zeroed mapping of file_size bytes. */
long shim_map_layout(struct shim_map_hdr *hdr);
long shim_map_format(void *base, const struct shim_map_hdr *hdr);

/* Program side: pointer to the value (of this run's virtual CPU for per-CPU types), or NULL. */
void *shim_map_lookup(const struct shim_map_desc *d, const void *key, struct shim_run *run);
long shim_map_update(const struct shim_map_desc *d, const void *key, const void *value, u64 flags,
		     struct shim_run *run);
long shim_map_delete(const struct shim_map_desc *d, const void *key, struct shim_run *run);

/* bpf_map_push_elem, pop_elem, peek_elem. */
long shim_map_push(const struct shim_map_desc *d, const void *value, u64 flags, struct shim_run *run);
long shim_map_pop(const struct shim_map_desc *d, void *value, struct shim_run *run);
long shim_map_peek(const struct shim_map_desc *d, void *value, struct shim_run *run);

/* The value of another CPU, for per-CPU types; NULL if there is no such CPU or key. */
void *shim_map_lookup_percpu(const struct shim_map_desc *d, const void *key, u32 cpu,
			     struct shim_run *run);

/* System-call side: values of per-CPU types are round_up(value_size, 8) * nr_vcpus bytes. */
long shim_map_sys_lookup(const struct shim_map_desc *d, const void *key, void *value, u64 flags,
			 struct shim_run *run);
long shim_map_sys_update(const struct shim_map_desc *d, const void *key, const void *value, u64 flags,
			 struct shim_run *run);
long shim_map_sys_delete(const struct shim_map_desc *d, const void *key, struct shim_run *run);
long shim_map_sys_lookup_and_delete(const struct shim_map_desc *d, const void *key, void *value,
				    u64 flags, struct shim_run *run);
/* key NULL or unknown: the first key. -ENOENT after the last. */
long shim_map_sys_next_key(const struct shim_map_desc *d, const void *key, void *next,
			   struct shim_run *run);
/* BPF_MAP_LOOKUP_BATCH and LOOKUP_AND_DELETE_BATCH. *count in: room, out: delivered. in_batch and
 * out_batch point at positions (in_batch NULL: from the start), of shim_map_position_size() bytes.
 * -ENOENT: the end, with *count delivered; -ENOSPC as the kernel. */
u32 shim_map_position_size(const struct shim_map_desc *d);
long shim_map_sys_lookup_batch(const struct shim_map_desc *d, const void *in_batch, void *out_batch,
			       void *keys, void *values, u32 *count, u64 flags, u32 del,
			       struct shim_run *run);

/* Virtual CPUs: claim tries the machine's own CPU first, takes over the dead's, yields, waits
 * within the bound of shim_lock(). SHIM_NO_VCPU: none could be had (the run is missed). */
u32 shim_vcpu_claim(struct shim_ctl *ctl, u32 owner);
u32 shim_vcpu_claim_at(struct shim_ctl *ctl, u32 cpu, u32 owner); /* this one or none */
/* Of a thread that keeps one from run to run. entry: its own in shim_ctl.vcpu, 0: all have their keepers.
 * keep: that of the CPU where it is, now and from now on (shim_vcpu_again()), or SHIM_NO_VCPU; not inside
 * of a run that has one so. */
u32 shim_vcpu_entry(struct shim_ctl *ctl, u32 owner);
u32 shim_vcpu_keep(struct shim_ctl *ctl, u32 entry, u32 owner);
void shim_vcpu_release(struct shim_ctl *ctl, u32 vcpu, u32 owner);

/* What bpf_send_signal() asked for, once the run has let go of everything. */
void shim_signal_flush(struct shim_run *run);

/* CLOCK_MONOTONIC, ns. */
u64 shim_now_ns(void);

/* Locks in shared memory. 0 taken; 1 taken from a dead owner (roll the intent); -EBUSY bounded
 * wait over: the holder has stood still for a second, or goes on and has had it for 10. */
long shim_lock(u32 *lock, struct shim_ctl *ctl, u32 owner);
void shim_unlock(u32 *lock, u32 owner);
/* Does a process run, wait for a CPU, or get one within so long (less than a second)? false too where its
 * threads cannot be looked at. */
int shim_goes_on(u32 pid, u64 ns);
/* Claims a process slot; returns the owner word with thread bits 0, or 0 if none is free. */
u32 shim_slot_claim(struct shim_ctl *ctl, u32 pid, u64 start_time);

/* Bytes for a map, against ctl->map_limit (0: none): 0 or -ENOMEM. */
long shim_charge(struct shim_ctl *ctl, u64 bytes);
void shim_uncharge(struct shim_ctl *ctl, u64 bytes);

/* Fault-safe copies from and to this process's own memory: 0 or -EFAULT. strncpy: bytes with
 * the NUL, or -EFAULT. */
long shim_copy_from(void *dst, u64 src, u64 len);
long shim_copy_to(u64 dst, const void *src, u64 len);
long shim_strncpy_from(void *dst, u64 src, u64 size);
/* The same as copy_from, by a system call always. */
long shim_copy_asking(void *dst, u64 src, u64 len);
/* The calling thread's own number without a system call, set by who knows it; 0: not now. */
extern u32 (*shim_own_tid)(void);
/* The number of the thread that an owner word of this process's stands for; 0: not known. */
extern u32 (*shim_owner_tid)(u32 owner);
/* The end of the memory from addr on which can be read without asking, for as long as the caller runs; 0:
 * none is known. */
extern u64 (*shim_stays)(u64 addr);
/* Copies of this thread's that may fault, as long as may() says so: they answer as the ones above. */
struct shim_quick {
	u64 least; /* below that address they do not read */
	int (*may)(void);
	long (*copy)(void *dst, u64 src, u64 len);
	long (*string)(void *dst, u64 src, u64 size);
};
extern const struct shim_quick *shim_quick;

/* What programs of PROG_TEST_RUN do in the name of the process that runs them, by who can; NULL: nobody. 0 or
 * more, or a negative errno. find: a type of the kernel's, or SHIM_FIND_SYMBOL, by its name: *found is what a
 * program is told, 0 is returned. */
struct shim_caller {
	long (*bpf)(u32 cmd, u64 attr, u32 size);
	long (*close)(int fd);
	long (*find)(u32 kind, const char *name, u64 *found);
	long (*read)(void *to, u64 from, u32 size); /* of that process; NULL: it is this one */
};
enum { SHIM_FIND_SYMBOL = 32 }; /* behind the kinds of BTF */
extern const struct shim_caller *shim_caller;

/* bpf helpers by number (enum bpf_func_id); NULL where there is none. The signature is
 * u64 helper(u64 r1, u64 r2, u64 r3, u64 r4, u64 r5, struct shim_run *run). */
/* No helpers of the kernel's: what loads through pointers of its BTF call; BPF_LD_ABS and _IND. */
enum { SHIM_FUNC_KERNEL_LOAD = 254, SHIM_FUNC_PACKET_LOAD = 255 };
/* What loads and stores of the host's memory that a class grants call: (address, bytes), (address,
 * value, bytes). A load that faults gives 0, and a store that does is none. */
enum { SHIM_FUNC_HOST_STORE = 218, SHIM_FUNC_HOST_LOAD = 219 };
/* What bpf_probe_read*() through a pointer to bytes is, whose number another field of its object has:
 * (to, bytes, from, way, what), the last two as verifier/granted/lengths.py packs them. */
enum { SHIM_FUNC_HOST_BYTES = 216 };
/* Calls a function of the host's, in r10, with the arguments of an image's call (hostcall.c). */
enum { SHIM_FUNC_HOST_CALL = 217 };
/* What a program whose instructions are counted (libbpf_shim/jit/charge.py) calls when a run has used up
 * its own: that is counted. */
enum { SHIM_FUNC_BUDGET_ENDED = 213 };
/* bpf_ktime_get_ns() where the program's own code, by its thread's scale (struct shim_clock), has no
 * answer: the clock's, and the scale is made anew where that pays. */
enum { SHIM_FUNC_CLOCK_OWN = 253 };
/* What isolated programs do with the host's objects, records and locks: shim_held.h. shim_held_end: records
 * and locks that are left go back. */
enum { SHIM_FUNC_HELD = 212 };
void shim_held_end(struct shim_run *run);
/* How isolated programs read the host's memory. HOST_CLIP, of (address, bytes): how many come before
 * something that is the agent's (all, in a process without one). HOST_PEEK: HOST_LOAD, which gives 0
 * where not all do. */
enum { SHIM_FUNC_HOST_PEEK = 214, SHIM_FUNC_HOST_CLIP = 215 };
extern u64 (*shim_host_clip)(u64 addr, u64 bytes);
/* Kernel functions have numbers of ours behind those (jit/kfuncs.py). */
enum {
	SHIM_KFUNC_iter_num_new = 256,
	SHIM_KFUNC_iter_num_next = 257,
	SHIM_KFUNC_iter_num_destroy = 258,
	SHIM_KFUNC_iter_bits_new = 259,
	SHIM_KFUNC_iter_bits_next = 260,
	SHIM_KFUNC_iter_bits_destroy = 261,
	SHIM_KFUNC_dynptr_from_skb = 262,
	SHIM_KFUNC_dynptr_from_skb_rdonly = 263,
	SHIM_KFUNC_dynptr_from_xdp = 264,
	SHIM_KFUNC_dynptr_slice = 265,
	SHIM_KFUNC_dynptr_slice_rdwr = 266,
	SHIM_KFUNC_dynptr_adjust = 267,
	SHIM_KFUNC_dynptr_is_null = 268,
	SHIM_KFUNC_dynptr_is_rdonly = 269,
	SHIM_KFUNC_dynptr_size = 270,
	SHIM_KFUNC_dynptr_clone = 271,
	SHIM_KFUNC_dynptr_copy = 272,
	SHIM_KFUNC_dynptr_memset = 273,
	SHIM_KFUNC_nothing = 274,
	SHIM_KFUNC_strcmp = 275,
	SHIM_KFUNC_strcasecmp = 276,
	SHIM_KFUNC_strchr = 277,
	SHIM_KFUNC_strchrnul = 278,
	SHIM_KFUNC_strnchr = 279,
	SHIM_KFUNC_strrchr = 280,
	SHIM_KFUNC_strlen = 281,
	SHIM_KFUNC_strnlen = 282,
	SHIM_KFUNC_strspn = 283,
	SHIM_KFUNC_strcspn = 284,
	SHIM_KFUNC_strstr = 285,
	SHIM_KFUNC_strnstr = 286,
	SHIM_KFUNC_session_is_return = 287,
	SHIM_KFUNC_session_cookie = 288,
	SHIM_KFUNC_map_sum_elem_count = 289,
};
typedef u64 (*shim_helper_fn)(u64, u64, u64, u64, u64, struct shim_run *);
shim_helper_fn shim_helper(u32 number);

/* Calls a function of the program that runs: fn is what its ld_imm64 BPF_PSEUDO_FUNC gave, that
 * is, an address in the image (jit/tier1.py says how images are entered); r1 to r4 are its
 * arguments. Returns its R0. For helpers that call back: no lock of the runtime may be held that
 * the function could want, and it may not return at all (a longjmp out of a signal handler,
 * agent_unreachable): whatever is held must be found and freed by the run's owner word. */
u64 shim_callback(u64 fn, struct shim_run *run, u64 r1, u64 r2, u64 r3, u64 r4);

/* bpf_timer, by the address of the timer in its value. set: the callback; start: at ns of a clock
 * (absolute), or so many from now; cancel: 1 if it was armed. Whoever has threads to call back on
 * sets shim_timers; without it bpf_timer_set_callback() is -EOPNOTSUPP. */
struct shim_timer_ops {
	long (*set)(u64 timer, u64 fn, const struct shim_map_desc *map, const struct shim_run *run);
	long (*start)(u64 timer, u32 clock, u64 ns, u32 absolute);
	long (*cancel)(u64 timer);
};
extern const struct shim_timer_ops *shim_timers;
u32 shim_timer_inited(u64 timer);
/* The key of the element whose value lies there (an array's: an index, put at array_key). -ENOENT:
 * it is no element now. */
long shim_map_key_of(const struct shim_map_desc *d, u64 value, u64 *key, u32 *array_key);

/* Bytes a consumer could read: of a BPF_MAP_TYPE_RINGBUF; of a perf ring at 'page'. */
u64 shim_ringbuf_avail(const struct shim_map_desc *d);
/* What poll(2) says: a RINGBUF has data to be read, a USER_RINGBUF has room to be written. */
u32 shim_ringbuf_ready(const struct shim_map_desc *d);
u64 shim_perf_avail(const void *page);
/* The reader is told that the ring at 'page' has come to head; and ctl->wake_seq as it was when the
 * first record came that it has not been told of. Of two rings the lower has the older news. */
void shim_perf_told(void *page, u64 head);
u32 shim_perf_since(const void *page);
/* Wakes whoever waits on ctl->wake_seq. */
void shim_wake(struct shim_ctl *ctl);

/* Addresses of [slots, slots + size) that stand on a stack are replaced ones: the address that was
 * there is found `size` bytes behind the slot, of `each` bytes, that they are in. */
void shim_stack_init(u64 slots, u64 size, u64 each);

/* These modules of a session, beside (more) or in the place of those that it gave before; at most
 * SHIM_MAX_UNWIND of all sessions, the rest is left out. Callers exclude each other; runs go on. */
void shim_unwind_set(u32 session, const struct shim_unwind_module *modules, u32 nr, u32 more);

/* vDSO clock, if the host handed one over (agent: AT_SYSINFO_EHDR); else system calls. */
void shim_clock_init(u64 sysinfo_ehdr);
/* Where a thread may not read the time stamp counter (PR_TSC_SIGSEGV), which the vDSO does, all clocks are
 * system calls from then on. look: the calling thread is asked. */
enum { SHIM_TSC_FORBIDDEN = 2 };
void shim_clock_look(void);
void shim_clock_plain(void);

#endif
