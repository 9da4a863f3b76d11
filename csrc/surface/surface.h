/*
 * The surface: what a loader meets instead of the kernel's BPF. Internal contracts.
 *
 * Every file interposes one family of libc entry points. Rules in all of them:
 * - descriptors and paths that are not ours behave exactly as before, at the cost of a load;
 * - functions here return >= 0 or a negative errno; errno is set once, by surface_ret;
 * - no malloc, no stdio; locks are taken with all signals blocked and lie in a page that
 *   fork children find zeroed;
 * - tables are caches: a descriptor is what fstat says it is, since a process can close or
 *   move descriptors without passing here; fast.c alone believes them, for a while.
 */
#ifndef SHIM_SURFACE_H
#define SHIM_SURFACE_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/syscall.h>

#include "shim_runtime.h"
#include "shim_sys.h"
#include "shim_wire.h"

#define EXPORT __attribute__((visibility("default")))
#define array_size(a) (sizeof(a) / sizeof((a)[0]))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define load_acquire(p) __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define store_release(p, v) __atomic_store_n(p, v, __ATOMIC_RELEASE)

/* The next definition of a libc function, looked up at first use (before constructors too). */
#define REAL(name) \
	({ \
		static void *real_slot_; \
		(__typeof__(&name))surface_real(&real_slot_, #name); \
	})
void *surface_real(void **slot, const char *name);

/* libc's convention from ours. */
static inline long surface_ret(long ret)
{
	if (unlikely((unsigned long)ret >= (unsigned long)-4095L)) {
		errno = (int)-ret;
		return -1;
	}
	return ret;
}

/* ---- process: state.c ---- */

/* Wiped in fork children, so that they see that they are one. */
struct surface_self {
	u32 pid; /* 0: a fork child that has not looked yet */
	u32 rpc_lock; /* futex locks: 0 free, 1 held, 2 held with waiters */
	u32 table_lock;
	u32 hop; /* the hop thread runs in this process */
	u32 timer; /* the timer thread runs */
	u32 connected;
	u32 begun, ended; /* threads of surface_start_thread's, while they are there for certain */
	u32 owner; /* owner word of this process, 0: not known yet */
};

struct surface_state {
	struct surface_self *self; /* NULL: no bpf call was made yet */
	u32 unwiped; /* the kernel does not wipe self: libc's fork() has it done */
	u32 secure; /* AT_SECURE: nothing here is ours */
	u32 asking; /* LIBBPF_SHIM_QUICK_READS is 0 */
	u32 started; /* a session is there (welcome in hand) */
	s32 failed; /* negative errno that every request gets: could not start, or died */
	s32 conn; /* descriptor of the connection; meaningful if self->connected */
	u64 conn_ino;
	u64 memfd_dev; /* st_dev of every memfd */
	struct shim_ctl *ctl;
	u8 *perf;
	u64 perf_size;
	u32 session_id;
	u32 nr_vcpus;
	char dir[108];
	u32 nrings; /* ring objects known: look before doing anything in poll */
	u32 nwatched; /* rings with an eventfd */
};
extern struct surface_state surface;

/* This process's self page; made at the first call. NULL: a vfork child (it shares our memory
 * but not our descriptors: it must touch nothing), or no memory. */
struct surface_self *surface_self(void);

/* Blocks every signal and takes the lock; the return value goes to surface_unlock. */
u64 surface_lock(u32 *lock);
void surface_unlock(u32 *lock, u64 mask);

/* One line to descriptor 2, "libbpf_shim: " and a newline added. */
void surface_note(const char *what, const char *detail);
/* Decimal of v at buf (24 bytes); returns buf. */
char *surface_decimal(char *buf, u64 v);
/* dst = a b c, cut to size; returns dst. */
char *surface_join(char *dst, size_t size, const char *a, const char *b, const char *c);
/* The directory of this library's real path, "" if it cannot be known. */
const char *surface_home(void);

/* ---- connection: rpc.c, spawn.c ---- */

struct rpc {
	u64 mask;
	struct shim_msg reply;
	u8 *out; /* request payload */
	size_t out_len, out_size;
	u8 *in; /* reply payload */
	size_t in_len, in_size;
	int fds[SHIM_MAX_FDS]; /* received; those left at rpc_end are closed */
	u32 nfds;
};

/* Takes the connection, starting the backend or connecting again if need be; all signals are
 * blocked until rpc_end. Negative errno: not taken. */
long rpc_begin(struct rpc *r);
/* Room for n more bytes of request payload at offset out_len (which it advances); NULL: no memory. */
void *rpc_room(struct rpc *r, size_t n);
/* Sends and waits. The reply's ret; -EIO if the backend is gone. */
long rpc_call(struct rpc *r, u32 op);
/* Takes reply descriptor 0 out, moved to 3 or above; negative errno if there is none. */
long rpc_take_fd(struct rpc *r);
void rpc_end(struct rpc *r);
/* begin, one flat request, call; payload of the reply (up to reply_len bytes) copied. */
long rpc_simple(u32 op, const void *req, size_t len, void *reply, size_t reply_len);

/* What libbpf_shim.conf beside the library says: line 1 the interpreter, line 2 the project's root. */
struct surface_conf {
	char interp[1024], root[1024];
};

/* path: the file's, of SURFACE_PATH bytes. 0 or a negative errno. */
long surface_conf(struct surface_conf *conf, char *path, size_t size);
/* Starts a backend that others may join at `share` ("": nobody may): one end of a socket pair, or
 * a negative errno with a note written. */
long spawn_backend(const char *share);
/* Moves fd to a high number, close-on-exec. Returns the new number, or fd if it cannot. */
int surface_raise_fd(int fd);
void surface_close(int fd);

/* ---- capability tokens: token.c ---- */

/* Appends the text of this loader's token to a request, if LIBBPF_BPF_TOKEN_PATH names one. */
void surface_token(struct rpc *r);
/* path is the one where a loader looks for the bpffs that it gets tokens from. */
bool surface_token_path(const char *path);

/* ---- sharing: share.c ---- */

/* The folder where loaders of this user meet, made if need be; "": this one meets nobody. */
const char *surface_share(void);
/* From now on, and in children, this loader meets nobody: the meeting place is not well. */
void surface_share_leave(void);
/* The folder of a daemon (bpf-shim serve) that this loader is to use, and no other; NULL: none. */
const char *surface_server(void);
/* A connection to the socket folder/name, or a negative errno. */
long surface_connect(const char *folder, const char *name);
/* The same to the session that is shared at that place. */
long surface_connect_shared(const char *place);

/* ---- descriptors: fdtable.c ---- */

enum { SURFACE_MAX_FD = 65536, SURFACE_MAX_OBJS = 4096, SURFACE_MAX_WATCHED = 1024 };
enum { SURFACE_FD_INTERNAL = 0x100, SURFACE_FD_FOREIGN = 0x101 }; /* kinds beside SHIM_FD_* */

/* One map or ring in this process, however many descriptors name it. */
struct surface_obj {
	u64 dev, ino;
	u32 refs; /* table entries and users; 0: free */
	u32 kind; /* SHIM_FD_MAP or SHIM_FD_PERF_RING */
	u32 mapped; /* desc is valid */
	s32 efd; /* eventfd + 1, 0: none */
	u64 base, size;
	u64 perf_off, data_size; /* perf ring, once mmap'ed; data_size 0: not yet */
	u64 notified; /* data_head already told */
	u32 pending; /* readiness that poll has not reported */
	u32 watch; /* index + 1 into the watch list */
	/* of a map, for fast.c */
	u64 value_bytes; /* of a value as loaders have it */
	u32 ways; /* bit N: command N may be done there */
	u32 lit; /* its eventfd may be readable */
	struct shim_map_desc desc;
};
_Static_assert(sizeof(struct surface_obj) == 256, "a power of two is indexed fast");

/* fstat of fd. 0 or negative errno. */
long surface_identity(int fd, struct shim_fd_ref *ref);
/* O_ACCMODE of fd's description: what a descriptor of a map may do (f_mode in the kernel). */
u32 surface_fd_mode(int fd);
/* What fd is now: SHIM_FD_*, or SHIM_FD_NONE. Asks the backend about unknown candidates. */
u32 surface_fd_kind(int fd);
/* The same without asking and without a system call unless fd is in the table. */
u32 surface_fd_known(int fd);
/* Registers a descriptor that the backend handed out. */
void surface_fd_install(int fd, u32 kind);
void surface_fd_forget(int fd);
void surface_fd_copy(int from, int to);
void surface_fd_internal(int fd, bool on);
/* Lowest internal descriptor in [first, last], or -1. */
int surface_next_internal(unsigned first, unsigned last);
/* The object behind fd, held; NULL if fd is not of that kind. */
struct surface_obj *surface_obj_get(int fd, u32 kind);
struct surface_obj *surface_obj_hold(u32 index);
void surface_obj_put(struct surface_obj *obj);
u32 surface_obj_index(const struct surface_obj *obj);
/* close(2) of the application's, by a program of its own: 0 or negative errno. */
long surface_close_theirs(int fd);
/* Bumped before system calls that may close or move a descriptor and are not interposed by name. */
extern u32 surface_changes;
/* Maps the map (through its own description: a mapping must not keep the map alive). */
long surface_obj_map(struct surface_obj *obj, int fd);
/* Is fd a BPF ring buffer, a user's or not, or a perf ring? Held object, or NULL. */
struct surface_obj *surface_ring_get(int fd);

/* ---- bpf(2): bpf.c, gather.c, elem.c ---- */

enum { BPF_ATTR_SIZE = 168, PERF_ATTR_SIZE = 136 };

/* The kernel's rule for extensible structures: reads size bytes at user into dst (ksize bytes,
 * zeroed); -E2BIG if a tail beyond ksize is not zero, -EFAULT. */
long surface_copy_attr(void *dst, size_t ksize, u64 user, size_t size);

static inline u32 attr_u32(const void *attr, u32 off)
{
	return *(const u32 *)((const u8 *)attr + off);
}

static inline u64 attr_u64(const void *attr, u32 off)
{
	return *(const u64 *)((const u8 *)attr + off);
}

/* syscall(SYS_bpf, ...) and syscall(SYS_perf_event_open, ...): result or negative errno. */
long surface_bpf(u32 cmd, u64 uattr, u32 size);
long surface_perf_event_open(u64 uattr, s32 pid, s32 cpu, s32 group, u64 flags);
/* ioctl(2) on a perf event of ours: it is one, and the request is for events; what comes of it. */
bool surface_perf_ours(int fd, u64 request);
long surface_perf_ioctl(int fd, u64 request, u64 arg);
/* mmap(2) of a perf ring from its start: address or negative errno. */
long surface_perf_mmap(struct surface_obj *obj, u64 addr, u64 len, int prot, int flags, int fd);

/* Appends shim_bpf_req and everything after it; segs gets what was asked for (16 at most). */
struct gathered {
	struct shim_seg seg[16];
	u32 nsegs;
};
/* hint: of elements the bytes of a key; of information the object's kind. */
long surface_gather(struct rpc *r, struct gathered *g, u32 cmd, const u8 *attr, u32 size, u32 hint);
/* Writes a reply back. *tail: offset of what follows (an action's payload). */
long surface_scatter(struct rpc *r, const struct gathered *g, u64 uattr, size_t *tail);

/* Element commands on maps of ours. SURFACE_NOT_LOCAL: the backend's to answer. */
enum { SURFACE_NOT_LOCAL = 1 << 20 };
long surface_elem(u32 cmd, const u8 *attr, u64 uattr);
/* MAP_UPDATE_ELEM or MAP_DELETE_ELEM by the backend. */
long surface_elem_remote(u32 cmd, int fd, const void *key, const void *value, u64 flags);

/* surface_bpf() is fast.c's: what is not for it goes on here. */
long surface_bpf_slow(u32 cmd, u64 uattr, u32 size);
/* What fast.c wants to know of a map that has just been mapped. */
void surface_fast_describe(struct surface_obj *obj);
/* No thread uses obj any more, which is in no entry of the table. False: one may still; who is patient
 * has given it some milliseconds. */
bool surface_fast_wait(const struct surface_obj *obj, bool patient);

/* What a reply asks for before its caller is answered. ret is what it becomes on success. attr,
 * uattr: those of the bpf(2) call, or NULL and 0. */
long surface_act(u32 action, const void *payload, size_t len, const u8 *attr, u64 uattr, long ret);
/* Lets the backend put programs into this process. 0 or a negative errno. */
long surface_sync_agent(void);
/* bpf_timer.c: programs that run here may have timers from now on. */
void surface_timers_begin(void);
/* calls.c: what a program that runs here does by us. */
extern const struct shim_caller surface_caller;
/* The one that programs have: surface_caller; who serves another process says otherwise. */
EXPORT extern const struct shim_caller *shim_run_caller;
/* testrun.c: BPF_PROG_TEST_RUN, its fields checked already. 0 or a negative errno. */
long surface_test_run(const struct shim_act_run *act, const u8 *attr, u64 uattr);

/* ---- wake-ups: ready.c ---- */

/* Makes obj visible to the hop thread and gives its eventfd, or a negative errno. */
long surface_watch(struct surface_obj *obj);
void surface_unwatch(struct surface_obj *obj);
/* Tells every watched ring that has news; returns how many had. */
u32 surface_notify_all(void);
bool surface_notify(struct surface_obj *obj);
void surface_drain(int efd);
/* Does obj's readiness mean that it can be written (USER_RINGBUF), not read? */
bool surface_is_writer(const struct surface_obj *obj);
/* Takes the readiness out of obj's eventfd. */
void surface_unready(struct surface_obj *obj, int efd);
/* Puts it there, and says that poll has not reported it. */
void surface_ready(struct surface_obj *obj, int efd);
/* A detached thread with every signal blocked. 0 or negative errno. */
long surface_start_thread(void *(*fn)(void *));
/* Between these two producers wake the hop thread. */
void surface_sleep_begin(void);
void surface_sleep_end(void);

/* ---- mappings: mmap.c ---- */

/* From the constructor: where libc's mmap() is. */
void surface_mmap_start(void);

/* ---- new programs: exec.c ---- */

/* getenv(3), which is not called: hits of a probe on it are the application's. */
const char *surface_variable(const char *name);
/* From the constructor, outside.c: a program whose calls pass libc by, and which may be a loader, becomes `bpf-shim
 * run` of it. Returns where it is none, or that cannot be. */
void surface_outside(int argc, char **argv);
/* From the constructor: whether this process tree is to be followed. */
void surface_follow(void);
/* The library out of the LD_PRELOAD that children get. */
void surface_leave_environment(void);

/* ---- paths: redirect.c ---- */

enum { SURFACE_PATH = 4096 };
/* Where path leads for loaders, after the real call ended with err (0: well): if the real one
 * cannot be had, or is not what loaders mean. NULL: nowhere else. */
const char *surface_redirect(const char *path, char *buf, int err);
/* The file that says of a descriptor of ours what /proc/self/fdinfo/N says of the kernel's; NULL: path
 * is none of those. */
const char *surface_fdinfo(const char *path, char *buf);
/* Where a path below /sys/fs/bpf leads; NULL: nowhere else. path must be readable. */
const char *surface_bpffs(const char *path, char *buf);
/* Is path, which must be readable, at or below a place where tracefs is mounted? */
bool surface_traces(const char *path);

#endif
