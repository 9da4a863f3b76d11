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
#include <linux/nsfs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
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

/* A thread: whose it is, and its numbers from our namespace down to its own. */
struct who {
	u32 tgid;
	u32 depth; /* 0: it is gone */
	u32 own; /* its number to itself */
	u32 at; /* and in the namespace so many levels down, if it lives there or below; 0: it does not */
};

static struct who look_at(u32 number, u32 level)
{
	char path[PATH], text[STATUS], *at;
	struct who who = { 0 };
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%u/status", number);
	n = read_file(path, text, sizeof(text) - 1);
	text[n > 0 ? n : 0] = 0;
	at = strstr(text, "\nTgid:");
	who.tgid = at ? (u32)strtoul(at + 6, NULL, 10) : 0;
	at = strstr(text, "\nNSpid:");
	for (at = at ? at + 7 : text + strlen(text); *at == '\t';) {
		who.own = (u32)strtoul(at + 1, &at, 10);
		if (++who.depth == level)
			who.at = who.own;
	}
	return who;
}

static u64 inode_of(u32 pid, const char *name)
{
	char path[PATH];
	struct stat st;

	snprintf(path, sizeof(path), "/proc/%u/%s", pid, name);
	return stat(path, &st) ? 0 : st.st_ino;
}

/* Does it live in that namespace, or so many below? */
static int lives_in(u32 pid, u64 ns, u32 below)
{
	char path[PATH];
	struct stat st;
	int found, fd, up;

	snprintf(path, sizeof(path), "/proc/%u/ns/pid", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	for (; fd >= 0 && below; below--) {
		up = ioctl(fd, NS_GET_PARENT);
		close(fd);
		fd = up;
	}
	found = fd >= 0 && !fstat(fd, &st) && st.st_ino == ns;
	if (fd >= 0)
		close(fd);
	return found;
}

/* The newest first: it is mostly who has just begun that asks. */
static s32 thread_of(u32 pid, u32 number)
{
	struct list l = { 0 };
	char path[PATH];
	s32 found = -ESRCH;

	snprintf(path, sizeof(path), "/proc/%u/task", pid);
	list_folder(path, &l);
	for (u32 i = l.n; i-- > 0 && found < 0;) {
		struct who who = look_at(l.at[i], 0);

		if (who.own == number && who.tgid == pid)
			found = (s32)l.at[i];
	}
	free(l.at);
	return found;
}

/* Whom a number means: to itself (level 0), or to those who live so many namespaces down from ours. ns:
 * that one; 0: it is not known. */
struct meant {
	u32 number, level;
	u64 ns;
};

static int is_process(u32 candidate, const struct meant *m)
{
	struct who who = look_at(candidate, m->level);

	if (who.tgid != candidate || (m->level ? who.at : who.own) != m->number)
		return 0;
	return !m->ns || lives_in(candidate, m->ns, m->level ? who.depth - m->level : 0);
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

static s32 child_of(u32 pid, const struct meant *m)
{
	struct list threads = { 0 }, children = { 0 };
	char path[PATH];
	s32 found = -ESRCH;

	snprintf(path, sizeof(path), "/proc/%u/task", pid);
	list_folder(path, &threads);
	for (u32 i = 0; i < threads.n; i++)
		add_children(pid, threads.at[i], &children);
	for (u32 i = children.n; i-- > 0 && found < 0;)
		if (is_process(children.at[i], m))
			found = (s32)children.at[i];
	free(threads.at);
	free(children.at);
	return found;
}

/* In a namespace one process at most has the number; or one thread. */
static s32 anybody(const struct meant *m, int threads)
{
	struct list l = { 0 };
	s32 found = -ESRCH;

	list_folder("/proc", &l);
	for (u32 i = l.n; i-- > 0 && found < 0 && m->ns;)
		if (!threads)
			found = is_process(l.at[i], m) ? (s32)l.at[i] : found;
		else if (inode_of(l.at[i], "ns/pid") == m->ns)
			found = thread_of(l.at[i], m->number);
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
	static const char *const files[] = { "stat", "status",	 "schedstat",
					     "comm", "loginuid", "sessionid" };
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
	const struct meant m = { q->number, 0, q->ns };
	s32 found = child_of(q->pid, &m);

	if (found < 0)
		found = anybody(&m, 0);
	a->start_time = found > 0 ? start_of((u32)found) : 0;
	return found;
}

static s32 other(const struct shim_ask *q)
{
	const struct meant m = { q->number, look_at(q->pid, 0).depth,
				 q->ns ? q->ns : inode_of(q->pid, "ns/pid") };
	s32 found = thread_of(q->pid, q->number);

	if (found < 0)
		found = child_of(q->pid, &m);
	if (found < 0)
		found = anybody(&m, 0);
	return found < 0 ? anybody(&m, 1) : found;
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

	for (;;) {
		u32 seen = __atomic_load_n(&ctl->ask_seq, __ATOMIC_ACQUIRE); /* before the rest */
		int busy = 0;

		if (__atomic_load_n(&ctl->ask_end, __ATOMIC_ACQUIRE))
			return;
		__atomic_store_n(&ctl->ask_silent, 0, __ATOMIC_RELEASE);
		for (u32 i = 0; i < SHIM_MAX_ASKS; i++)
			busy |= look(&ctl->ask[i], &before[i]);
		shim_native_futex_wait(&ctl->ask_seq, seen, busy ? 1000000000 : -1);
	}
}
