/*
 * The keeper's protocol, over a SOCK_SEQPACKET pair with the backend. One request, one
 * reply. The keeper is a tracer only between STOP and RELEASE; it ends what it has
 * begun when the backend dies, then restores this session's sites in every process that
 * still maps the session's control memfd, and exits.
 */
#ifndef SHIM_KEEPER_H
#define SHIM_KEEPER_H

#include "shim_agent.h"

enum {
	SHIM_KEEPER_MAX_WINDOWS = 256, /* a request; more: several requests under one stop */
	SHIM_KEEPER_MAX_FIXUPS = 16,
};

enum shim_keeper_op {
	SHIM_KP_SESSION = 1, /* shim_kp_session: whom to clean up after */
	SHIM_KP_STOP = 2, /* shim_kp_pid: seize and interrupt all threads; ret threads stopped */
	SHIM_KP_CALL = 3, /* shim_kp_call: self-restoring call; answered when it has ended. The backend
			   * serves the agent's connection meanwhile */
	SHIM_KP_PATCH = 4, /* shim_kp_patch: windows of a stopped process, all or none */
	SHIM_KP_RELEASE = 5, /* shim_kp_pid */
	SHIM_KP_DETACH = 6, /* shim_kp_detach: whole transaction: stop, unlink this session's links (or
			     * one of them) in the site table, restore windows with no link left,
			     * release; ret sites restored */
	SHIM_KP_INJECT = 7, /* shim_kp_inject: whole transaction: an agent into a process without one.
			     * The reply's payload, if any, is the reason of a refusal */
	SHIM_KP_EJECT = 8, /* shim_kp_eject: whole transaction: the agent and all it has mapped out of
			    * a process in which no session is left */
	SHIM_KP_FOLLOW = 9, /* s32, the thread of the process that is about to exec, and waits for our
			     * word */
	SHIM_KP_AWAIT = 10, /* shim_kp_pid: it has it: stopped at the beginning of the new image. ESRCH,
			     * ETIMEDOUT: it is not */
	SHIM_KP_LET_GO = 11, /* shim_kp_pid: of AWAIT; until then STOP finds it stopped, and RELEASE
			      * leaves it so */
	SHIM_KP_TALK =
		12, /* shim_kp_call, by SHIM_PAIR: STOP and CALL, answered once the agent has made
			    * its socket, with a descriptor, the other end of that. Nothing is stopped
			    * after a refusal; ENOTCONN: a CALL by a path may do */
	SHIM_KP_FINISH = 13, /* shim_kp_patch: the conversation is over; PATCH, if there are windows,
			      * and RELEASE. Errors also of the agent's part */
	SHIM_KP_LIKE =
		14, /* shim_kp_like: whole transaction: one more site with a link that differs from one
			    * which the agent has made in place and cookie alone. EOPNOTSUPP: it is for a
			    * conversation, nothing was done; else errors of STOP and PATCH, nothing was left */
};

/* What the image in a process is called in /proc/PID/maps: version and, in hexadecimal, where its
 * shim_agent_root is: "/memfd:bpf-agent-VERSION-OFFSET (deleted)". */
#define SHIM_IMAGE_NAME "bpf-agent-"

/* The payload of a refusal of TALK that is one of STOP. */
#define SHIM_KP_NOT_STOPPED "not stopped"

struct shim_kp_msg {
	u32 op;
	s32 ret; /* replies: >= 0 or negative errno */
	u32 pid;
	u32 len; /* payload bytes */
};

struct shim_kp_session {
	u64 ctl_ino;
	u64 ctl_dev;
	u32 session_id;
	u32 uid;
	char library[256]; /* path of libbpf_shim.so, as it stands in /proc/PID/maps */
	u64 root_off; /* of shim_agent_root from the library's first mapping */
};

struct shim_kp_call {
	u64 root; /* address of struct shim_agent in the target */
	u32 reason;
	u32 timeout_ms;
	char path[108]; /* of the socket; "": give back what sessions of dead backends mapped;
			 * SHIM_PAIR: see SHIM_KP_TALK */
	u32 careful; /* TALK: ENOTCONN too where a filter that cannot be read may mind socketpair(2), which
		      * nobody has called yet */
};

struct shim_kp_fixup {
	u64 from; /* instruction pointer inside the window */
	u64 to; /* its copy in the trampoline */
};

enum { SHIM_KP_TRAP = 1, SHIM_KP_PUN = 2 };

struct shim_kp_window {
	u64 addr;
	u32 len;
	u32 nfixups;
	u8 expect[32]; /* refused with ESTALE unless these are the bytes there */
	u8 bytes[32];
	u64 scan_lo, scan_hi; /* no stack word may point into [lo, hi): EAGAIN (both 0: no scan) */
	u64 site; /* address of struct shim_site, its 'patched' set to 'patched'; 0: none */
	u32 patched;
	u32 becomes; /* SHIM_KP_TRAP, SHIM_KP_PUN: what the site is then, with these bytes; 0: what it was */
	struct shim_kp_fixup fixups[16];
};

struct shim_kp_patch {
	u32 nwindows;
	u32 stay; /* FINISH: stopped, if nothing was refused */
	/* struct shim_kp_window windows[nwindows] */
};

/* At a place of a file whose window is a jump of its own. */
struct shim_kp_like {
	u64 root; /* address of struct shim_agent in the target */
	u64 sites; /* what the trampoline was made for: shim_agent.sites, */
	u32 index; /* and the record that is the next: shim_agent.nr_sites */
	u32 session_id;
	u64 like_id; /* of the link that it is like, */
	u32 like; /* the only one of the site of that index, */
	u32 prog_id;
	u64 image; /* and of that program, */
	u32 kind; /* and kind */
	u32 link; /* the new one's, as cookie and link_id */
	u64 cookie, link_id;
	u64 ino, off; /* of the file that is mapped where the window is, from this offset on */
	u32 major, minor;
	u32 tramp_len, pad;
	struct shim_site site; /* without links, not patched */
	struct shim_kp_window window;
	u8 tramp[512];
};

struct shim_kp_inject {
	char image[256]; /* file of the agent's image */
	char name[64]; /* of its memfd, SHIM_IMAGE_NAME... */
	char run_dir[96]; /* where the user's sessions are */
};

struct shim_kp_eject {
	u64 root; /* address of struct shim_agent in the target */
	u32 timeout_ms;
	u32 kept; /* also one that is to stay (shim_agent.kept) */
};

struct shim_kp_detach {
	u64 link_id; /* 0: every link of the session */
	u32 session_id;
	u32 timeout_ms;
	u64 root; /* address of struct shim_agent in the target */
};

#endif
