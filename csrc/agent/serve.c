/*
 * The conversation: the backend says what to do, one message at a time, the agent answers each.
 * Under root.lock, with signals blocked. A function per message; the table is at the end.
 */
#include "state.h"
#include "proc.h"
#include "stays.h"
#include "clock.h"
#include "keys.h"
#include "sys.h"
#include "table.h"
#include "trap.h"
#include "wire.h"

enum { CHUNK = 8192, MAX_MESSAGES = 1 << 20, MAX_PAYLOAD = 1 << 26 };

struct talk {
	long sock;
	long mem; /* /proc/self/mem */
	u32 reason, nfds;
	u32 patience; /* ms for runs that are over soon; threads stopped by the keeper do not end theirs */
	u32 session; /* index, of the last SESSION */
	s32 fds[SHIM_MAX_FDS];
	struct shim_msg msg;
	u32 answer_len, unsent; /* bytes in buf, in out */
	u8 buf[CHUNK + 128] __attribute__((aligned(8))); /* payload in, then answer */
	u8 out[sizeof(struct shim_msg) + CHUNK + 128]; /* answers to what came in one go */
};

/* one conversation at a time: the lock is held */
static struct talk talk;

static void answer(struct talk *t, const void *data, u32 len)
{
	agent_copy(t->buf, data, len);
	t->answer_len = len;
}

static long answer_index(struct talk *t, long index)
{
	u32 value = (u32)index;

	if (index < 0)
		return index;
	answer(t, &value, sizeof(value));
	return 0;
}

static long do_session(struct talk *t)
{
	struct shim_agent_session *msg = (void *)t->buf;
	long index;

	if (t->nfds < 1 || (msg->perf_size && t->nfds < 2))
		return -E_INVAL;
	index = agent_session_add(msg, t->fds[0], t->nfds > 1 ? t->fds[1] : -1);
	if (index >= 0)
		t->session = (u32)index;
	return answer_index(t, index);
}

static long do_mmap(struct talk *t)
{
	struct shim_agent_mmap *msg = (void *)t->buf;
	u32 flags = msg->flags, kind = flags & MAP_ANON_ ? 0 : SHIM_OWNED_FILE;
	int inside = flags & MAP_FIXED_ && agent_in_window(msg->addr, msg->len, t->session);
	u64 address;
	long at;

	if (!(flags & MAP_ANON_) && t->nfds != 1)
		return -E_INVAL;
	if ((msg->prot & 6) == 6) /* writable and executable: never */
		return -E_ACCES;
	flags &= ~(u32)MAP_FIXED_;
	if (msg->addr)
		flags |= inside ? MAP_FIXED_ : MAP_NOREPLACE_;
	at = shim_sys6(NR_MMAP, (long)msg->addr, (long)msg->len, msg->prot, flags,
		       flags & MAP_ANON_ ? -1 : t->fds[0], (long)msg->off);
	if (at < 0 && at > -4096)
		return at;
	address = (u64)at;
	if (msg->addr && address != msg->addr) { /* a kernel that does not know NOREPLACE */
		shim_sys2(NR_MUNMAP, at, msg->len);
		return -E_EXIST;
	}
	if (flags & MAP_NORESERVE_ && !msg->prot)
		kind = SHIM_OWNED_WINDOW;
	if (!inside && agent_own(address, msg->len, t->session, kind)) {
		shim_sys2(NR_MUNMAP, at, msg->len);
		return -E_NOSPC;
	}
	answer(t, &address, sizeof(address));
	return 0;
}

static long do_munmap(struct talk *t)
{
	struct shim_agent_range *msg = (void *)t->buf;

	if (agent_quiesce(t->patience)) /* a run may be inside */
		return -E_BUSY;
	agent_disown(msg->addr);
	return shim_sys2(NR_MUNMAP, msg->addr, msg->len);
}

/* Reads the rest of the payload and drops it, so that the stream stays whole after an error. */
static long drain(struct talk *t, u64 len)
{
	long ret = 0;

	while (len && !ret) {
		u64 part = len < CHUNK ? len : CHUNK;

		ret = agent_recv(t->sock, t->buf, part);
		len -= part;
	}
	return ret;
}

/* The range stands in buf; the bytes are still in the stream. Through /proc/self/mem: pages that are
 * not writable stay so. A broken stream ends the conversation by *broken. */
static long do_write(struct talk *t, long *broken)
{
	struct shim_agent_range range = *(struct shim_agent_range *)(void *)t->buf;
	u64 left = t->msg.len - sizeof(range), done = 0;

	if (range.len != left) {
		*broken = drain(t, left);
		return -E_INVAL;
	}
	while (left) {
		u64 part = left < CHUNK ? left : CHUNK;
		long ret;

		*broken = agent_recv(t->sock, t->buf, part);
		if (*broken)
			return *broken;
		left -= part;
		ret = agent_poke(t->mem, range.addr + done, t->buf, part);
		if (ret) {
			*broken = drain(t, left);
			return ret;
		}
		done += part;
	}
	return 0;
}

static long do_read(struct talk *t)
{
	struct shim_agent_range range = *(struct shim_agent_range *)(void *)t->buf;
	long n;

	if (range.len > CHUNK)
		return -E_INVAL;
	n = shim_sys4(NR_PREAD, t->mem, t->buf, range.len, range.addr);
	if (n != (long)range.len)
		return n < 0 ? n : -E_FAULT;
	t->answer_len = (u32)range.len;
	return 0;
}

static long do_site(struct talk *t)
{
	const struct shim_site *msg = (void *)t->buf;
	u32 existed, trap = msg->flags & SHIM_SITE_TRAP;
	long index = trap ? agent_trap_begin(t->reason) : 0;

	if (!index)
		index = agent_site_add(msg, t->patience, &existed);
	if (index < 0)
		return index;
	if (trap && existed != 2)
		agent_trap_note((u32)index);
	answer_index(t, index);
	return (long)existed;
}

static long do_link(struct talk *t)
{
	struct shim_site_link link;
	long index;
	u32 site;

	agent_copy(&site, t->buf, 4);
	agent_copy(&link, t->buf + 4, sizeof(link));
	link.live = 0;
	index = agent_link_add(site, &link, t->patience);
	if (index >= 0 && link.link_id & SHIM_QUICK_LINKS)
		agent_quick_asked();
	agent_sys_changed();
	return answer_index(t, index);
}

static long do_sites(struct talk *t)
{
	u32 n = t->msg.len / (u32)sizeof(struct shim_site);

	agent_sites_add((void *)t->buf, n, t->patience, (void *)t->buf);
	t->answer_len = n * (u32)sizeof(struct shim_agent_added);
	return 0;
}

static long do_links(struct talk *t)
{
	u32 n = (t->msg.len - (u32)sizeof(struct shim_agent_links)) /
		(u32)sizeof(struct shim_agent_place);
	long done = agent_links_add((void *)t->buf, n, t->patience);

	agent_sys_changed();
	return answer_index(t, done);
}

static long do_unlink(struct talk *t)
{
	enum { ROOM = CHUNK / 4 - 1 };
	u64 link_id;
	u16 session, only;
	u32 quick;
	u32 *out = (u32 *)(void *)t->buf;
	long count;

	agent_copy(&link_id, t->buf, 8);
	agent_copy(&session, t->buf + 8, 2);
	agent_copy(&only, t->buf + 10, 2);
	quick = !link_id || link_id & SHIM_QUICK_LINKS;
	if (quick)
		agent_quick_going();
	count = agent_unlink(link_id, session, only, out + 1, ROOM);
	if (quick)
		agent_quick_look();
	agent_sys_changed();
	out[0] = (u32)count;
	t->answer_len = (u32)(count + 1) * 4;
	return 0;
}

static long do_patch(struct talk *t)
{
	u32 *msg = (u32 *)(void *)t->buf;

	if (msg[0] >= shim_agent_root.nr_sites || msg[1] > 1)
		return -E_INVAL;
	return agent_patch(msg[0], msg[1], t->reason, t->mem);
}

static long do_runnable(struct talk *t)
{
	struct shim_runnable *msg = (void *)t->buf;

	msg->live = 0;
	return answer_index(t, agent_runnable_add(msg));
}

static long do_swap(struct talk *t)
{
	return answer_index(t, agent_image_swap((void *)t->buf));
}

static long do_end(struct talk *t)
{
	return agent_session_end(*(u32 *)(void *)t->buf, t->patience);
}

static long do_object(struct talk *t)
{
	struct shim_agent_object *msg = (void *)t->buf;
	struct shim_session *session = &shim_agent_root.sessions[msg->session % SHIM_MAX_SESSIONS];

	if (!session->id || !(msg->key >> 32))
		return -E_INVAL;
	if (msg->addr)
		return agent_object_set(session, msg->key, msg->addr);
	agent_object_drop(session, msg->key);
	if (!msg->len)
		return 0;
	agent_disown(msg->base);
	return shim_sys2(NR_MUNMAP, msg->base, msg->len);
}

static long do_grace(struct talk *t)
{
	struct shim_agent_grace reply = { 0 };

	agent_grace(&reply, t->reason == SHIM_SYNC_KEEPER);
	answer(t, &reply, sizeof(reply));
	return 0;
}

static long do_unwind(struct talk *t)
{
	struct shim_agent_unwind *msg = (void *)t->buf;

	_Static_assert(sizeof(*msg) <= CHUNK, "fits");
	if (msg->session >= SHIM_MAX_SESSIONS || msg->nr > 96)
		return -E_INVAL;
	shim_unwind_set(msg->session, msg->modules, msg->nr, msg->more);
	return 0;
}

static long do_clock(struct talk *t)
{
	return answer_index(t, agent_clock((void *)t->buf));
}

static long do_begun(struct talk *t)
{
	return t->reason == SHIM_SYNC_KEEPER ? agent_proc_begun() : -E_OPNOTSUPP;
}

static long do_ended(struct talk *t)
{
	struct shim_agent_ended msg;

	agent_copy(&msg, t->buf, sizeof(msg));
	return t->reason == SHIM_SYNC_MAILBOX ? -E_OPNOTSUPP : agent_proc_ended(&msg);
}

static long do_keys(struct talk *t)
{
	return agent_keys((void *)t->buf, t->patience);
}

static long do_calls(struct talk *t)
{
	struct shim_agent_calls msg = *(struct shim_agent_calls *)(void *)t->buf;

	agent_sys_changed();
	return answer_index(t, agent_calls(&msg, t->reason, t->mem));
}

/* By op - SHIM_OP_AGENT_SESSION; 'len' is the payload's exact size, or what comes before parts of 'each'
 * bytes. WRITE is in step(). */
static const struct {
	long (*run)(struct talk *t);
	u32 len, each;
} ops[] = {
	{ do_session, sizeof(struct shim_agent_session), 0 },
	{ do_mmap, sizeof(struct shim_agent_mmap), 0 },
	{ do_munmap, sizeof(struct shim_agent_range), 0 },
	{ NULL, sizeof(struct shim_agent_range), 0 },
	{ do_read, sizeof(struct shim_agent_range), 0 },
	{ do_site, sizeof(struct shim_site), 0 },
	{ do_link, 4 + sizeof(struct shim_site_link), 0 },
	{ do_unlink, 12, 0 },
	{ do_patch, 8, 0 },
	{ do_runnable, sizeof(struct shim_runnable), 0 },
	{ do_end, 4, 0 },
	{ NULL, 0, 0 }, /* DONE, which never comes here */
	{ do_object, sizeof(struct shim_agent_object), 0 },
	{ do_grace, 0, 0 },
	{ do_unwind, sizeof(struct shim_agent_unwind), 0 },
	{ do_clock, sizeof(struct shim_agent_clock), 0 },
	{ do_ended, sizeof(struct shim_agent_ended), 0 },
	{ do_calls, sizeof(struct shim_agent_calls), 0 },
	{ do_begun, 0, 0 },
	{ do_sites, 0, sizeof(struct shim_site) },
	{ do_links, sizeof(struct shim_agent_links), sizeof(struct shim_agent_place) },
	{ do_swap, sizeof(struct shim_runnable), 0 },
	{ do_keys, sizeof(struct shim_agent_keys), 0 },
};

static long handle(struct talk *t, long *broken)
{
	u32 want, op = t->msg.op - (u32)SHIM_OP_AGENT_SESSION;

	if (op >= sizeof(ops) / sizeof(ops[0])) {
		*broken = drain(t, t->msg.len);
		return -E_OPNOTSUPP;
	}
	want = ops[op].len;
	if (ops[op].each && t->msg.len >= want && t->msg.len <= CHUNK &&
	    !((t->msg.len - want) % ops[op].each))
		want = t->msg.len;
	if (ops[op].run ? t->msg.len != want : t->msg.len < want) {
		*broken = drain(t, t->msg.len);
		return -E_INVAL;
	}
	*broken = agent_recv(t->sock, t->buf, want);
	if (*broken)
		return *broken;
	return ops[op].run ? ops[op].run(t) : do_write(t, broken);
}

static long flush(struct talk *t)
{
	u32 len = t->unsent;

	t->unsent = 0;
	return len ? agent_send(t->sock, t->out, len) : 0;
}

/* Sent when nothing more has come: the backend is not woken for each of many. */
static long send_answer(struct talk *t)
{
	u32 len = (u32)sizeof(t->msg) + t->msg.len;
	long ret = t->unsent + len > sizeof(t->out) ? flush(t) : 0;

	agent_copy(t->out + t->unsent, &t->msg, sizeof(t->msg));
	agent_copy(t->out + t->unsent + sizeof(t->msg), t->buf, t->msg.len);
	t->unsent += len;
	return ret || agent_has_more() ? ret : flush(t);
}

/* One message. 0: go on; 1: DONE, 2: and the keeper comes; else the stream is broken. */
static long step(struct talk *t)
{
	long ret = agent_recv_header(t->sock, &t->msg, t->fds, &t->nfds);
	long broken = ret;

	if (!ret && t->msg.op == SHIM_OP_AGENT_DONE)
		broken = t->msg.ret == 1 ? 2 : 1;
	else if (!ret && t->msg.len > MAX_PAYLOAD)
		broken = -E_PROTO;
	if (!broken) {
		t->answer_len = 0;
		ret = handle(t, &broken);
	}
	for (u32 i = 0; i < t->nfds && i < SHIM_MAX_FDS; i++)
		shim_sys1(NR_CLOSE, t->fds[i]);
	if (broken)
		return broken;
	t->msg.ret = (s32)ret;
	t->msg.len = ret < 0 ? 0 : t->answer_len;
	t->msg.action = t->msg.nfds = 0;
	return send_answer(t);
}

static long hello(struct talk *t)
{
	struct shim_hello_agent *h = (void *)(t->buf + sizeof(t->msg));

	_Static_assert(sizeof(t->msg) % 8 == 0 && sizeof(t->msg) + sizeof(*h) <= sizeof(talk.buf),
		       "hello fits");
	_Static_assert((int)SHIM_SYM_MAX == 337, "syms");
	agent_zero(h, sizeof(*h));
	h->version = SHIM_WIRE_VERSION;
	h->pid = (u32)shim_sys0(NR_GETPID);
	h->tid = (u32)shim_sys0(NR_GETTID);
	h->reason = t->reason;
	h->nthreads = agent_nthreads();
	h->ptrace = (u32)agent_private.ptrace_errno;
	h->start_time = agent_start_time();
	h->root = (u64)&shim_agent_root;
	h->syms[SHIM_SYM_ROOT] = (u64)&shim_agent_root;
	h->syms[SHIM_SYM_ENTER] = (u64)agent_enter;
	h->syms[SHIM_SYM_SERVICE] = (u64)agent_service_entry;
	h->syms[SHIM_SYM_UNREACHABLE] = (u64)agent_unreachable;
	h->syms[SHIM_SYM_DL_CHANGE] = (u64)agent_enter_dl_change;
	h->syms[SHIM_SYM_THREAD] = (u64)agent_enter_thread;
	h->syms[SHIM_SYM_ENTER_OWN] = (u64)agent_enter_own;
	h->syms[SHIM_SYM_ENTER_LEAN] = (u64)agent_enter_lean;
	h->syms[SHIM_SYM_CALL_ENTER] = (u64)agent_call_enter;
	h->syms[SHIM_SYM_CALL_EXIT] = (u64)agent_call_exit;
	h->syms[SHIM_SYM_CALL_WANTED] = (u64)agent_sys_wanted;
	h->syms[SHIM_SYM_CALL_ENTER_OWN] = (u64)agent_call_enter_own;
	h->syms[SHIM_SYM_CALL_EXIT_OWN] = (u64)agent_call_exit_own;
	h->syms[SHIM_SYM_CONTAINED] = (u64)agent_contained;
	h->syms[SHIM_SYM_WATCHED] = (u64)agent_enter_watched;
	if (t->reason == SHIM_SYNC_MAP) {
		h->syms[SHIM_SYM_MAPPED] = agent_mapped_lo;
		h->syms[SHIM_SYM_MAPPED_END] = agent_mapped_hi;
	}
	for (u32 i = SHIM_SYM_HELPER0; i < SHIM_SYM_WATCHED; i++)
		h->syms[i] = (u64)shim_helper(i - SHIM_SYM_HELPER0);
	agent_zero(&t->msg, sizeof(t->msg));
	t->msg.magic = SHIM_WIRE_MAGIC;
	t->msg.op = SHIM_OP_HELLO_AGENT;
	t->msg.len = sizeof(*h);
	/* in one piece: the process may be stopped at any time, and who looks takes all or nothing */
	agent_copy(t->buf, &t->msg, sizeof(t->msg));
	return agent_send(t->sock, t->buf, sizeof(t->msg) + sizeof(*h));
}

long agent_serve(long sock, u32 reason)
{
	long ret;

	talk.sock = sock;
	talk.reason = reason;
	talk.patience = reason == SHIM_SYNC_KEEPER ? 0 : AGENT_QUIET_MS;
	talk.unsent = 0;
	talk.mem = shim_sys3(NR_OPEN, "/proc/thread-self/mem", O_RDWR_ | O_CLOEXEC_, 0);
	if (talk.mem == -E_ACCES) /* as agent_poke */
		talk.mem = shim_sys3(NR_OPEN, "/proc/thread-self/mem", O_CLOEXEC_, 0);
	agent_recv_begin();
	agent_quiesce_anew(reason == SHIM_SYNC_KEEPER);
	agent_keys_tables(PROT_RW);
	ret = hello(&talk);
	for (u32 i = 0; i < MAX_MESSAGES && !ret; i++)
		ret = step(&talk);
	flush(&talk);
	agent_recv_end();
	agent_quiesce_anew(0);
	agent_let_sites_go();
	agent_keys_tables(PROT_R);
	if (talk.mem >= 0)
		shim_sys1(NR_CLOSE, talk.mem);
	return ret > 0 ? ret - 1 : ret;
}
