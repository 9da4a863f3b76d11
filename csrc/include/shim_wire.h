/*
 * Messages between surface, agent and backend over one AF_UNIX SOCK_STREAM socket a
 * client: a header, then 'len' bytes; file descriptors travel with the header
 * (SCM_RIGHTS). Little endian, no padding. The socket is $RUN/sessions/ID/sock; the
 * loader that started the backend has the first connection by inheritance.
 *
 * Loader to backend: HELLO_LOADER once, then requests, each answered by one reply of the
 * same op and seq. Agent and backend: the agent sends HELLO_AGENT, then answers the
 * backend's AGENT_* messages until AGENT_DONE.
 */
#ifndef SHIM_WIRE_H
#define SHIM_WIRE_H

#include "shim_types.h"
#include "shim_agent.h"
#include "shim_unwind.h"

enum { SHIM_WIRE_MAGIC = 0x5742, SHIM_WIRE_VERSION = 3, SHIM_MAX_FDS = 16 };
enum { SHIM_FDINFO_NAME = 24 };
enum { SHIM_TOKEN_MAX = 24576 }; /* bytes of a token's text */

enum shim_op {
	/* loader -> backend */
	/* shim_hello, the text of the loader's token if it has one; reply shim_welcome, fds: ctl, perf.
	 * EKEYREJECTED: this session needs a token, and not that one */
	SHIM_OP_HELLO_LOADER = 1,
	SHIM_OP_BPF = 2, /* shim_bpf_req ...; reply shim_bpf_reply ..., fd: the new object */
	SHIM_OP_PERF_OPEN = 3, /* shim_perf_open ...; reply fd: the event */
	SHIM_OP_PERF_IOCTL = 4, /* shim_perf_ioctl */
	SHIM_OP_PERF_MMAP = 5, /* shim_perf_mmap; reply shim_perf_mapped */
	SHIM_OP_FLUSH = 6, /* empty: answered when every close before it has taken effect */
	SHIM_OP_FD_INFO = 7, /* shim_fd_ref; reply shim_fd_info: what is this descriptor? */
	/* empty, any client, no hello needed; reply: JSON text. u32 id: of that program's code */
	SHIM_OP_STATUS = 8,
	/* backend -> loader, unasked, any number before a reply: a line (newline included) that
	 * the surface writes to descriptor 2; not answered */
	SHIM_OP_NOTICE = 9,
	/* shim_fd_ref; reply: SHIM_FDINFO_NAME bytes, a file of the session's folder that holds what
	 * /proc/self/fdinfo/N would */
	SHIM_OP_FDINFO = 10,
	SHIM_OP_ROOM = 11, /* empty: maps that nobody holds are dropped, the memory of the others is
			    * counted; before an update fails for lack of it */
	SHIM_OP_LEAVE = 12, /* u32 pid, no hello needed: the session leaves that process, and does
			     * not come back to it by itself */
	SHIM_OP_LOOK = 13, /* u32 pid, no hello needed: somebody has given that process an agent; what
			    * the session has for it is put there */
	/* u32 kind of BTF, or SHIM_FIND_SYMBOL, and a name; reply: u64, what the helper of that name tells
	 * a program, fd: of the module's BTF which the type is of. ENOENT, EPERM */
	SHIM_OP_FIND = 14,
	/* agent -> backend */
	SHIM_OP_HELLO_AGENT = 32, /* shim_hello_agent */
	/* backend -> agent, each answered with the same op, 'ret' and perhaps a payload */
	SHIM_OP_AGENT_SESSION = 33, /* shim_agent_session, fds ctl, perf; map both, claim a slot;
				     * reply u32 index into sessions[]. EXDEV: a session is there that has
				     * other numbers of processes */
	SHIM_OP_AGENT_MMAP = 34, /* shim_agent_mmap [fd]; reply u64 address */
	SHIM_OP_AGENT_MUNMAP = 35, /* shim_agent_range */
	SHIM_OP_AGENT_WRITE = 36, /* shim_agent_range + bytes: into memory nobody executes yet */
	SHIM_OP_AGENT_READ = 37, /* shim_agent_range; reply bytes */
	SHIM_OP_AGENT_SITE = 38, /* shim_site (all but first); reply u32 index. An existing record
				  * of the same addr is answered with its index and ret 1; one of another
				  * whose window is in the way, with that one's and ret 2 */
	SHIM_OP_AGENT_LINK = 39, /* u32 site index + shim_site_link (live, next ignored); reply u32
				  * index: appended and live */
	SHIM_OP_AGENT_UNLINK = 40, /* u64 link_id + u16 session + u16 site index + 1, 0: any; reply u32
				    * n + n site indices that have no link left */
	SHIM_OP_AGENT_PATCH = 41, /* u32 site index, u32 1 patch / 0 restore, and then its host unless
				   * that is needed still: by the process itself.
				   * EBUSY: other threads run and the window has several
				   * instructions, or other sites need it;
				   * ESTALE: bytes are not those expected */
	SHIM_OP_AGENT_RUNNABLE = 42, /* shim_runnable; reply u32 index */
	SHIM_OP_AGENT_END = 43, /* u32 session: forget it, unmap ctl and perf */
	SHIM_OP_AGENT_DONE = 44, /* no reply. ret 1: the keeper comes for what the process may not do by
				  * itself; a thread that loads something waits for that, for a moment */
	SHIM_OP_AGENT_OBJECT = 45, /* shim_agent_object: an entry of the session's struct
				    * shim_objects; ENOMEM. addr 0: out of it, and its mapping too, at
				    * the end of a grace period that began when no value had its id */
	SHIM_OP_AGENT_GRACE = 46, /* empty; reply shim_agent_grace */
	SHIM_OP_AGENT_UNWIND = 47, /* shim_agent_unwind: modules whose code is unwound by a table */
	SHIM_OP_AGENT_CLOCK = 48, /* shim_agent_clock; reply u32 number of the clock */
	SHIM_OP_AGENT_ENDED = 49, /* shim_agent_ended: programs run for a process that could not tell
				   * of its end; EBUSY: this thread is in the middle of a run */
	SHIM_OP_AGENT_BEGUN = 51, /* empty: the image has just begun; its exec is told of */
	SHIM_OP_AGENT_CALLS = 50, /* shim_agent_calls: windows of system calls; reply u32 how many were
				   * written. EBUSY: other threads run, or calls are attached to */
	SHIM_OP_AGENT_SITES = 52, /* shim_site[], as in SITE, no int3; reply shim_agent_added[] */
	SHIM_OP_AGENT_LINKS = 53, /* shim_agent_links: LINK for each place; reply u32 how many. From the
				   * first that is refused on, there is none */
	SHIM_OP_AGENT_SWAP = 54, /* shim_runnable: its runs are of that image from now on; reply u32
				  * how many links and runnables changed */
	SHIM_OP_AGENT_KEYS = 55, /* shim_agent_keys: memory of a session goes under the process's
				  * protection key. EOPNOTSUPP: no such keys here; ENOSPC: none is
				  * free; EBUSY: a run does not end */
};

struct shim_msg {
	u16 magic;
	u16 op;
	u32 seq;
	u32 len; /* payload bytes that follow */
	s32 ret; /* replies: >= 0, or negative errno */
	u32 action; /* replies: SHIM_ACT_* */
	u32 nfds;
};
SHIM_ASSERT(sizeof(struct shim_msg) == 24);

/* What SITE would have answered. */
struct shim_agent_added {
	s32 index; /* or negative errno */
	u32 existed;
};

/* One program at many places. */
struct shim_agent_place {
	u32 site;
	u32 pad;
	u64 cookie, counter;
};

struct shim_agent_links {
	struct shim_site_link link; /* but for cookie and counter */
	/* struct shim_agent_place[] */
};

struct shim_hello {
	u32 version;
	u32 pid;
	u32 tid;
	u32 uid;
};

struct shim_welcome {
	u32 version;
	u32 session_id;
	u32 owner; /* owner word of this process, thread bits 0 */
	u32 nr_vcpus;
	u64 ctl_size;
	u64 perf_size;
	char dir[108]; /* $RUN/sessions/ID: cpu_possible, cpu_online, sock */
};

/*
 * SHIM_OP_BPF: shim_bpf_req, attr bytes, nsegs * shim_seg, nrefs * shim_fd_ref, then the
 * data of all segments that travel in, in order. The surface gathers what the attr's
 * pointers lead to, by a table, and scatters what comes back; decisions are the backend's.
 */
struct shim_bpf_req {
	u32 cmd;
	u32 attr_size; /* as the caller gave it */
	u32 nsegs;
	u32 nrefs;
};

/* NESTED: in attr_off; the pointer stands in what OBJ_GET_INFO_BY_FD is given, not in the attr. */
enum { SHIM_SEG_IN = 1, SHIM_SEG_OUT = 2, SHIM_SEG_NESTED = 0x10000 };

struct shim_seg {
	u32 attr_off; /* where in the attr the pointer stands; nested: offset | SHIM_SEG_NESTED */
	u32 dir;
	u64 addr; /* in the loader */
	u64 len; /* bytes in; bytes available, for out */
	s32 err; /* -EFAULT if the memory could not be read */
	u32 pad;
};

/* A descriptor that the attr or the instructions name. dev, ino: of fstat, 0 if it is not open.
 * mode: O_ACCMODE of its description, in what SHIM_OP_BPF carries. */
struct shim_fd_ref {
	s32 fd;
	u32 mode;
	u64 dev;
	u64 ino;
};

/* Reply: shim_bpf_reply, attr_len bytes of attr to copy back, nsegs * shim_seg_out, data. */
struct shim_bpf_reply {
	u32 attr_off; /* first attr byte to copy back */
	u32 attr_len;
	u32 nsegs;
	u32 pad;
};

struct shim_seg_out {
	u32 seg; /* index into the request's segments */
	u32 pad;
	u64 off; /* bytes into the segment */
	u64 len;
};

/* What the surface does before it answers its caller. The payload follows the reply's own. */
enum {
	SHIM_ACT_NONE = 0,
	/* connect as an agent (reason LOADER), then run runnable of prog_id: shim_act_run */
	SHIM_ACT_RUN = 1,
	SHIM_ACT_TIMER_START = 2, /* the same, every period_ns: shim_act_timer */
	SHIM_ACT_TIMER_STOP = 3,
};

/* WORDS: 64-bit words, copied in. BUFFER: bytes, copied in and back (syscall programs). The others:
 * a struct shim_packet, its ctx as it stands here. */
enum {
	SHIM_RUN_WORDS = 1,
	SHIM_RUN_BUFFER = 2,
	SHIM_RUN_SKB = 3, /* whose packet begins with the Ethernet header */
	SHIM_RUN_SKB_L3 = 4, /* the header is in front of it */
	SHIM_RUN_XDP = 5,
};

struct shim_act_run {
	u32 prog_id;
	u32 repeat;
	u32 kind; /* SHIM_RUN_* */
	u32 cpu; /* to run on, or SHIM_NO_VCPU */
	u32 ctx_size; /* WORDS, BUFFER: bytes */
	u32 meta; /* XDP: bytes of metadata before the packet */
	u32 linear; /* XDP: bytes of data_in, metadata included, that are no fragments */
	u32 ctx_out; /* the context is to be written to ctx_out, if that is there */
	u8 ctx[192];
	u8 out[192]; /* ctx_out to begin with: what a run leaves alone */
};

struct shim_act_timer {
	u32 prog_id;
	u32 link; /* index into shim_ctl.link[]: enabled is looked at before each run */
	u64 period_ns;
	u64 event_ino; /* descriptor whose close ends it */
};

/* SHIM_OP_PERF_OPEN: this, attr bytes (attr.size, or 0 meaning PERF_ATTR_SIZE_VER0), then the
 * strings at config1 and config2 if attr.type is the uprobe PMU (NUL included, "" if NULL). */
struct shim_perf_open {
	s32 pid;
	s32 cpu;
	s32 group_fd;
	u32 attr_size;
	u64 flags;
};

struct shim_perf_ioctl {
	struct shim_fd_ref event;
	struct shim_fd_ref prog; /* PERF_EVENT_IOC_SET_BPF */
	u64 request;
	u64 arg;
};

struct shim_perf_mmap {
	struct shim_fd_ref event;
	u64 length; /* bytes: 1 + 2^n pages */
};

struct shim_perf_mapped {
	u64 off; /* bytes into the perf area: the surface maps the perf memfd there */
};

struct shim_fd_info {
	u32 kind; /* SHIM_FD_* */
	u32 id;
};

enum {
	SHIM_FD_NONE = 0,
	SHIM_FD_MAP = 1,
	SHIM_FD_PROG = 2,
	SHIM_FD_BTF = 3,
	SHIM_FD_LINK = 4,
	SHIM_FD_PERF_RING = 5, /* SW_BPF_OUTPUT */
	SHIM_FD_PERF_EVENT = 6, /* uprobe, tracepoint, timer */
	SHIM_FD_STATS = 7, /* ENABLE_STATS */
	SHIM_FD_TOKEN = 8, /* TOKEN_CREATE */
};

enum {
	SHIM_SYNC_START = 1, /* constructor, before main */
	SHIM_SYNC_KEEPER = 2, /* self-restoring call, other threads stopped */
	SHIM_SYNC_MAILBOX = 3,
	SHIM_SYNC_DLOPEN = 4,
	SHIM_SYNC_LOADER = 5, /* the loader itself, for runnables */
	/* No conversation, the keeper is about to unmap the agent: does anything need it? Then
	 * nobody is inside of it: everything goes but the image. */
	SHIM_SYNC_EJECT = 6,
	SHIM_SYNC_EMPTY = 7,
	SHIM_SYNC_EXEC = 9, /* about to become a program that will not load the library */
	SHIM_SYNC_MAP = 8, /* something became executable, which nobody runs yet */
};

struct shim_hello_agent {
	u32 version;
	u32 pid;
	u32 reason; /* SHIM_SYNC_* */
	u32 nthreads; /* of the process, as /proc/self/task shows it */
	u32 ptrace; /* 0: works as far as one can tell; else the errno it answers here */
	u32 tid; /* of the thread that speaks */
	u64 start_time;
	u64 root;
	u64 syms[337];
};

/* NOTE: the region is there, and the keeper writes its windows; WRITE: the process does, alone or (FRESH)
 * before anybody runs the module; RESTORE: every region's windows, if no call is attached to. */
enum {
	SHIM_CALLS_NOTE = 1,
	SHIM_CALLS_WRITE = 2,
	SHIM_CALLS_FRESH = 3,
	SHIM_CALLS_RESTORE = 4,
	SHIM_CALLS_FORGET = 5, /* its module is gone */
};

struct shim_agent_calls {
	u64 at; /* struct shim_calls */
	u32 what;
	u32 pad;
};

struct shim_agent_session {
	u32 id;
	u32 pid; /* of this process as the session numbers it, if it is another number to itself, or its
		  * threads' are (a namespace of process numbers of its own); 0: they are the same */
	u64 ctl_size;
	u64 perf_size;
	u64 ctl_ino;
	u64 view; /* the session's namespace of process numbers: its inode */
	u64 start_time; /* of the process as the session sees it, clock ticks; with pid */
};

/* len 0: its control page and perf area, and what it has in the process from then on goes by that.
 * Else a range that it has mapped (MMAP), and its protection. */
struct shim_agent_keys {
	u64 addr, len;
	u32 session;
	u32 prot;
};

struct shim_agent_mmap {
	u64 addr; /* 0: anywhere; else MAP_FIXED_NOREPLACE */
	u64 len;
	u64 off;
	u32 prot;
	u32 flags; /* MAP_*; MAP_ANONYMOUS: no fd travels */
};

struct shim_agent_range {
	u64 addr;
	u64 len;
};

struct shim_agent_object {
	u64 key;
	u64 addr;
	u64 base, len; /* to be unmapped; len 0: nothing */
	u32 session; /* index into sessions[] */
	u32 pad;
};

struct shim_agent_ended {
	struct shim_stand_in as;
	u32 session; /* index into sessions[] */
	s32 prio;
	s32 exit_signal;
	u32 own; /* the signal by which the kernel has ended it; 0: another way, or it was sent */
};

/* Grace periods by number: every run that was in progress when one began has ended when it is over.
 * fresh: 'begun' began now. */
struct shim_agent_grace {
	u32 begun;
	u32 over;
	u32 fresh;
	u32 pad;
};

/* A clock, by kind and period: its number, below 32; then, with arm, once links lead to it, ticks. */
struct shim_agent_clock {
	u64 period; /* ns, or page faults */
	u32 index; /* arm: of which clock */
	u32 arm;
	u32 signo; /* the first of two that the C library keeps, its pthread_cancel()'s */
	u32 flags; /* SHIM_CLOCK_* */
	u32 kind;
	u32 pad;
};
enum {
	SHIM_CLOCK_CPU = 0,
	SHIM_CLOCK_FAULTS = 1,
	SHIM_CLOCK_FAULTS_MIN = 2,
	SHIM_CLOCK_FAULTS_MAJ = 3
};
enum { SHIM_CLOCK_ONSTACK = 1 /* stacks there are too small for a signal frame */ };

/* Some of a session's modules. more: beside those of messages before; else in their place. */
struct shim_agent_unwind {
	u32 session; /* index into sessions[] */
	u32 more;
	u32 nr;
	u32 pad;
	struct shim_unwind_module modules[96];
};

#endif
