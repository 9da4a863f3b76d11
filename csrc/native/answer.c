/*
 * Answers to processes that live in a namespace of process numbers of their own (struct shim_ask):
 * which number of ours is theirs, and what our /proc says of a number. Pure C, so that a thread that
 * stands in a hit does not wait for Python's lock. Nothing here trusts an entry: numbers are looked
 * up, names are of a fixed list.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "native.h"

enum { PHASE = (1 << SHIM_ASK_BITS) - 1, NEXT = 1 << SHIM_ASK_BITS };
enum { GIVEN_UP_S = 10, STATUS = 4096, PATH = 64, MOST = 1 << 22 };

/* Numbers, in the order in which they were found. */
struct list {
	u32 *at;
	u32 n, room;
};

static int add(struct list *l, u32 number)
{
	if (l->n == l->room) {
		u32 room = l->room ? l->room * 2 : 64;
		u32 *at = room > MOST ? NULL : realloc(l->at, room * sizeof(u32));

		if (!at)
			return -ENOMEM;
		l->at = at;
		l->room = room;
	}
	l->at[l->n++] = number;
	return 0;
}

static void list_folder(const char *path, struct list *l)
{
	DIR *dir = opendir(path);
	struct dirent *entry;
	u32 number;

	l->n = 0;
	while (dir && (entry = readdir(dir)))
		if ((number = (u32)strtoul(entry->d_name, NULL, 10)) && add(l, number))
			break;
	if (dir)
		closedir(dir);
}

static ssize_t read_file(const char *path, char *text, size_t room)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = 0, got;

	if (fd < 0)
		return -errno;
	while ((size_t)n < room && (got = read(fd, text + n, room - (size_t)n)) > 0)
		n += got;
	close(fd);
	return n;
}

/* What the thread is to itself, and whose it is; 0: it is gone. */
static u32 own_number(u32 number, u32 *tgid)
{
	char path[PATH], text[STATUS], *line, *end;
	u32 last = 0;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%u/status", number);
	n = read_file(path, text, sizeof(text) - 1);
	if (n <= 0)
		return 0;
	text[n] = 0;
	line = strstr(text, "\nTgid:");
	*tgid = line ? (u32)strtoul(line + 6, NULL, 10) : 0;
	line = strstr(text, "\nNSpid:");
	for (end = line ? line + 7 : text + n; *end == '\t';)
		last = (u32)strtoul(end + 1, &end, 10);
	return last;
}

static u64 inode_of(u32 pid, const char *name)
{
	char path[PATH];
	struct stat st;

	snprintf(path, sizeof(path), "/proc/%u/%s", pid, name);
	return stat(path, &st) ? 0 : st.st_ino;
}

/* The newest first: it is mostly who has just begun that asks. */
static s32 thread_of(u32 pid, u32 number)
{
	struct list l = { 0 };
	char path[PATH];
	s32 found = -ESRCH;
	u32 tgid;

	snprintf(path, sizeof(path), "/proc/%u/task", pid);
	list_folder(path, &l);
	for (u32 i = l.n; i-- > 0 && found < 0;)
		if (own_number(l.at[i], &tgid) == number && tgid == pid)
			found = (s32)l.at[i];
	free(l.at);
	return found;
}

static int is_process(u32 candidate, u32 number, u64 ns)
{
	u32 tgid;

	return own_number(candidate, &tgid) == number && tgid == candidate &&
	       (!ns || inode_of(candidate, "ns/pid") == ns);
}

static void add_children(u32 pid, u32 thread, struct list *l)
{
	char path[PATH], *line = NULL, *at, *end;
	size_t room = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%u/task/%u/children", pid, thread);
	file = fopen(path, "re");
	if (file && getline(&line, &room, file) > 0)
		for (at = line;; at = end) {
			u32 child = (u32)strtoul(at, &end, 10);

			if (end == at || !child || add(l, child))
				break;
		}
	free(line);
	if (file)
		fclose(file);
}

static s32 child_of(u32 pid, u32 number, u64 ns)
{
	struct list threads = { 0 }, children = { 0 };
	char path[PATH];
	s32 found = -ESRCH;

	snprintf(path, sizeof(path), "/proc/%u/task", pid);
	list_folder(path, &threads);
	for (u32 i = 0; i < threads.n; i++)
		add_children(pid, threads.at[i], &children);
	for (u32 i = children.n; i-- > 0 && found < 0;)
		if (is_process(children.at[i], number, ns))
			found = (s32)children.at[i];
	free(threads.at);
	free(children.at);
	return found;
}

/* In that namespace one process at most has the number; or one thread. */
static s32 anybody(u32 number, u64 ns, int threads)
{
	struct list l = { 0 };
	s32 found = -ESRCH;

	list_folder("/proc", &l);
	for (u32 i = l.n; i-- > 0 && found < 0 && ns;)
		if (!threads)
			found = is_process(l.at[i], number, ns) ? (s32)l.at[i] : found;
		else if (inode_of(l.at[i], "ns/pid") == ns)
			found = thread_of(l.at[i], number);
	free(l.at);
	return found;
}

static u64 start_of(u32 pid)
{
	char path[PATH], text[1024], *at;
	u32 field = 2;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%u/stat", pid);
	n = read_file(path, text, sizeof(text) - 1);
	text[n > 0 ? n : 0] = 0;
	at = strrchr(text, ')');
	for (; at && field < 22; field++)
		at = strchr(at + 1, ' ');
	return at ? strtoull(at + 1, NULL, 10) : 0;
}

static s32 file_of(u32 pid, const char *name, char *text, size_t room)
{
	static const char *const files[] = { "stat", "status", "comm", "loginuid", "sessionid" };
	char path[PATH];
	u64 inode;

	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		if (strcmp(name, files[i]))
			continue;
		snprintf(path, sizeof(path), "/proc/%u/%s", pid, files[i]);
		return (s32)read_file(path, text, room);
	}
	if (strncmp(name, "ns/", 3) || strchr(name + 3, '/') || strlen(name) > 24)
		return -EINVAL;
	inode = inode_of(pid, name);
	return inode ? snprintf(text, room, "%llu", (unsigned long long)inode) : -ESRCH;
}

static s32 child(struct shim_ask *a, const struct shim_ask *q)
{
	s32 found = child_of(q->pid, q->number, q->ns);

	if (found < 0)
		found = anybody(q->number, q->ns, 0);
	a->start_time = found > 0 ? start_of((u32)found) : 0;
	return found;
}

static s32 other(const struct shim_ask *q)
{
	u64 ns = q->ns ? q->ns : inode_of(q->pid, "ns/pid");
	s32 found = thread_of(q->pid, q->number);

	if (found < 0)
		found = child_of(q->pid, q->number, ns);
	if (found < 0)
		found = anybody(q->number, ns, 0);
	return found < 0 ? anybody(q->number, ns, 1) : found;
}

/* Into the entry, from a copy that nobody changes. */
static void answer(struct shim_ask *a)
{
	struct shim_ask q = *a;

	q.text[sizeof(q.text) - 1] = 0;
	a->of = q.number;
	switch (q.what) {
	case SHIM_ASK_THREAD: a->answer = thread_of(q.pid, q.number); break;
	case SHIM_ASK_CHILD: a->answer = child(a, &q); break;
	case SHIM_ASK_OTHER: a->answer = other(&q); break;
	case SHIM_ASK_FILE: a->answer = file_of(q.pid, q.text, a->text, sizeof(a->text)); break;
	default: a->answer = -EINVAL;
	}
}

static int step(struct shim_ask *a, u32 from, u32 to)
{
	return __atomic_compare_exchange_n(&a->state, &from, to, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

/* What was known of an entry when it was looked at last. */
struct before {
	u32 state;
	time_t since;
};

static time_t now_s(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec;
}

/* 1: somebody has it still. */
static int look(struct shim_ask *a, struct before *b)
{
	u32 state = __atomic_load_n(&a->state, __ATOMIC_ACQUIRE), rest = state & ~(u32)PHASE;

	if ((state & PHASE) == SHIM_ASK_ASKED && step(a, state, rest | SHIM_ASK_ANSWERING)) {
		answer(a);
		__atomic_store_n(&a->state, rest | SHIM_ASK_ANSWERED, __ATOMIC_RELEASE);
		shim_native_futex_wake(&a->state, 1 << 30);
		state = rest | SHIM_ASK_ANSWERED;
	}
	if ((state & PHASE) == SHIM_ASK_FREE)
		return 0;
	if (state != b->state) {
		b->state = state;
		b->since = now_s();
	} else if (now_s() - b->since > GIVEN_UP_S) {
		step(a, state, rest + NEXT); /* who asked is dead, or stands still */
	}
	return 1;
}

void shim_native_answer(struct shim_ctl *ctl)
{
	struct before before[SHIM_MAX_ASKS] = { 0 };

	while (!__atomic_load_n(&ctl->ask_end, __ATOMIC_ACQUIRE)) {
		u32 seen = __atomic_load_n(&ctl->ask_seq, __ATOMIC_ACQUIRE);
		int busy = 0;

		__atomic_store_n(&ctl->ask_silent, 0, __ATOMIC_RELEASE);
		for (u32 i = 0; i < SHIM_MAX_ASKS; i++)
			busy |= look(&ctl->ask[i], &before[i]);
		shim_native_futex_wait(&ctl->ask_seq, seen, busy ? 1000000000 : -1);
	}
}
