/*
 * Whose an owner word is, and what has become of him: is he dead, does he go on?
 *
 * The dead are found by generation (the backend has freed the slot) or, where there is no backend to
 * tell, by looking for the process; never on the fast path.
 *
 * Who goes on needs nothing but a CPU: he runs, waits for a CPU, or has been given one while he was
 * looked at, as those have who wait for something themselves. Who stands still is stopped, frozen, or
 * asleep, as a handler may be that has interrupted the holder, and may wait for the one who asks.
 */
#include "runtime.h"
#include "shim_names.h"

enum {
	NR_READ = 0,
	NR_OPEN = 2,
	NR_CLOSE = 3,
	NR_NANOSLEEP = 35,
	NR_KILL = 62,
	NR_GETTID = 186,
	NR_GETDENTS64 = 217,
	E_SRCH = 3
};
/* Who looks himself sleeps for a look's time: between two of another one's he has a turn. */
enum { LOOKED_AT_NS = 1000000, LOOKS = 3, MOST_THREADS = 1024 };

bool owner_dead(struct shim_ctl *ctl, u32 owner)
{
	const struct shim_slot *slot = &ctl->slot[owner >> SHIM_OWNER_SLOT_SHIFT];
	u32 gen = owner >> SHIM_OWNER_GEN_SHIFT & ((1u << SHIM_OWNER_GEN_BITS) - 1);
	u32 state = __atomic_load_n(&slot->state, __ATOMIC_ACQUIRE);

	if (slot->gen != gen || state == SHIM_SLOT_DEAD || state == SHIM_SLOT_FREE)
		return true;
	return state == SHIM_SLOT_LIVE && process_gone(slot->pid, slot->start_time);
}

/* Of /proc/PID/stat, proc_pid_stat(5): fields 3, 20 and 22. */
struct stat_fields {
	char state;
	u64 threads, start_time;
};

enum { STAT_THREADS = 20, STAT_START = 22, STAT_ROOM = 512, OPEN_FLAGS = 02000000 /* O_CLOEXEC */ };

/* /proc/PID/NAME */
static void path_of(char *out, u32 pid, const char *name)
{
	char digits[10];
	u32 n = 0;

	memcpy(out, "/proc/", 6);
	out += 6;
	do
		digits[n++] = (char)('0' + pid % 10);
	while (pid /= 10);
	while (n)
		*out++ = digits[--n];
	*out++ = '/';
	while ((*out++ = *name++))
		;
}

/* The name is in parentheses and may hold any byte: fields count from the last ')'. */
static bool parse_stat(const char *text, long len, struct stat_fields *out)
{
	long at = len;
	u64 value = 0;
	u32 field = 3;

	while (at > 0 && text[at - 1] != ')')
		at--;
	if (!at || at + 1 >= len)
		return false;
	out->state = text[at + 1];
	for (at += 2; at < len; at++) {
		if (text[at] >= '0' && text[at] <= '9') {
			value = value * 10 + (u64)(text[at] - '0');
			continue;
		}
		if (text[at] != ' ')
			continue; /* a sign */
		if (field == STAT_THREADS)
			out->threads = value;
		if (field == STAT_START) {
			out->start_time = value;
			return true;
		}
		value = 0;
		field++;
	}
	return false;
}

/* Bytes of /proc/PID/NAME. ctl: whose backend is asked where /proc has other numbers here; NULL: nobody. */
static long read_file(struct shim_ctl *ctl, u32 pid, const char *name, char *text, u32 room)
{
	char path[32];
	long fd, n;

	if (shim_names.foreign)
		return ctl ? shim_ask_file(ctl, pid, name, text, room) : 0;
	path_of(path, pid, name);
	fd = shim_sys3(NR_OPEN, path, OPEN_FLAGS, 0);
	if (fd < 0)
		return fd;
	n = shim_sys3(NR_READ, fd, text, room);
	shim_sys1(NR_CLOSE, fd);
	return n;
}

static bool read_stat(struct shim_ctl *ctl, u32 pid, struct stat_fields *out)
{
	char text[STAT_ROOM];
	long n = read_file(ctl, pid, "stat", text, sizeof(text));

	return n > 0 && parse_stat(text, n, out);
}

u64 thread_start(struct shim_ctl *ctl, u32 tid)
{
	struct stat_fields now = { .start_time = 0 };

	return read_stat(ctl, tid, &now) ? now.start_time : 0;
}

bool process_gone(u32 pid, u64 start_time)
{
	struct stat_fields now;

	if (!pid || shim_names.foreign) /* the backend sees it */
		return false;
	if (shim_sys2(NR_KILL, pid, 0) == -E_SRCH)
		return true;
	if (!read_stat(0, pid, &now))
		return false;
	/* a leader that has ended before its threads is a zombie too */
	if ((now.state == 'Z' || now.state == 'X') && now.threads <= 1)
		return true;
	return start_time && now.start_time != start_time;
}

/* What is seen of threads at one moment. */
struct seen {
	bool runs; /* one of them runs, or waits for a CPU */
	u64 turns; /* how often they have had one, in all; and whose they are */
};

/* How often a thread has been given a CPU: the third number of schedstat. */
static u64 turns_of(struct shim_ctl *ctl, u32 tid)
{
	char text[64];
	long n = read_file(ctl, tid, "schedstat", text, sizeof(text));
	u64 value = 0;

	for (long at = 0; at < n; at++) {
		if (text[at] == ' ')
			value = 0;
		else if (text[at] >= '0' && text[at] <= '9')
			value = value * 10 + (u64)(text[at] - '0');
	}
	return value;
}

static void see_thread(struct shim_ctl *ctl, u32 tid, struct seen *s)
{
	struct stat_fields now = { .state = 0 };

	if (!read_stat(ctl, tid, &now))
		return;
	s->runs |= now.state == 'R';
	s->turns += turns_of(ctl, tid) + tid;
}

/* Threads of a process, less the one that asks. */
static void see_process(struct shim_ctl *ctl, u32 pid, struct seen *s)
{
	struct entry { /* struct linux_dirent64 */
		u64 ino;
		s64 off;
		u16 reclen;
		u8 type;
		char name[];
	};
	char path[32], buf[512] __attribute__((aligned(8)));
	u32 self = (u32)shim_sys0(NR_GETTID), left = MOST_THREADS;
	long fd, len;

	if (shim_names.foreign) {
		see_thread(ctl, pid, s);
		return;
	}
	path_of(path, pid, "task");
	fd = shim_sys3(NR_OPEN, path, OPEN_FLAGS, 0);
	while (fd >= 0 && (len = shim_sys3(NR_GETDENTS64, fd, buf, sizeof(buf))) > 0 && left &&
	       !s->runs)
		for (long at = 0; at < len && left; at += ((struct entry *)(buf + at))->reclen) {
			u32 tid = 0;

			for (const char *c = ((struct entry *)(buf + at))->name; *c >= '0' && *c <= '9';
			     c++)
				tid = tid * 10 + (u32)(*c - '0');
			if (tid && tid != self) {
				see_thread(ctl, tid, s);
				left--;
			}
		}
	if (fd >= 0)
		shim_sys1(NR_CLOSE, fd);
}

u32 (*shim_owner_tid)(u32 owner);

static void see(struct shim_ctl *ctl, const u32 *word, u32 nr, struct seen *s)
{
	enum { NEXT = sizeof(struct shim_vcpu) / sizeof(u32) };

	for (u32 i = 0; i < nr && !s->runs; i++) {
		u32 owner = __atomic_load_n(&word[i * NEXT], __ATOMIC_RELAXED);
		u32 tid = shim_owner_tid ? shim_owner_tid(owner) : 0;

		s->turns += owner;
		if (!owner)
			s->runs = true;
		else if (tid)
			see_thread(ctl, tid, s);
		else
			see_process(ctl, ctl->slot[owner >> SHIM_OWNER_SLOT_SHIFT].pid, s);
	}
}

bool holders_go_on(struct shim_ctl *ctl, const u32 *word, u32 nr, u32 self)
{
	enum { NEXT = sizeof(struct shim_vcpu) / sizeof(u32) };
	struct seen before = { 0 };
	u64 nap[2] = { 0, LOOKED_AT_NS };

	for (u32 i = 0; i < nr; i++) /* an outer run of this thread's waits for this one */
		if (__atomic_load_n(&word[i * NEXT], __ATOMIC_RELAXED) == self)
			return false;
	see(ctl, word, nr, &before);
	for (u32 i = 0; !before.runs && i < LOOKS; i++) {
		struct seen after = { 0 };

		shim_sys2(NR_NANOSLEEP, nap, 0);
		see(ctl, word, nr, &after);
		if (after.runs || after.turns != before.turns)
			return true;
	}
	return before.runs;
}

int shim_goes_on(u32 pid, u64 ns)
{
	struct seen before = { 0 }, after = { 0 };
	u64 nap[2] = { 0, ns };

	see_process(0, pid, &before);
	if (before.runs)
		return true;
	shim_sys2(NR_NANOSLEEP, nap, 0);
	see_process(0, pid, &after);
	return after.runs || after.turns != before.turns;
}
