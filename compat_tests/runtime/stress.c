/*
 * stress TYPE SECONDS PROCESSES THREADS: many writers on one map, in processes of which one is killed
 * every few milliseconds (0 processes: threads of this one, and nobody is killed).
 *
 * Each thread has keys that only it writes, and keeps what they hold in memory that outlives it, with
 * its intent before each change. Whatever is read must be that, after a death too; an LRU map may
 * have dropped it. At the end the map holds what the models say and has all of its room.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stress.h"

enum { HASH = 1, LRU_HASH = 9, LPM_TRIE = 11 };
enum { KEYS = 32, SHARED_KEYS = 64, MAX_PROCESSES = 16, MAX_THREADS = 8, NOBODY = 1 << 24 };

/* What one thread's keys hold: 0 nothing. intent: index + 1 of the key that is being changed to next. */
struct model {
	u64 value[KEYS];
	u64 next;
	u32 intent;
	u32 first; /* number of its first key */
	u64 changes;
};

struct shared {
	u32 stop, numbers;
	struct model model[MAX_PROCESSES][MAX_THREADS];
};

struct worker {
	struct model *m;
	struct shim_run run;
	u32 seed;
};

static struct shim_map_desc desc;
static struct shim_ctl *ctl;
static struct shared *all;
static u32 type, nthreads;

static void make(u32 entries)
{
	struct shim_map_hdr hdr = { .magic = SHIM_MAP_MAGIC,
				    .version = SHIM_MAP_VERSION,
				    .type = type,
				    .key_size = 8,
				    .value_size = 16,
				    .max_entries = entries,
				    .map_flags = type == LPM_TRIE,
				    .nr_vcpus = 1 };
	void *base;

	check(!shim_map_layout(&hdr), "layout");
	base = shared_memory(hdr.file_size);
	check(!shim_map_format(base, &hdr) && !shim_map_desc_init(&desc, base, hdr.file_size),
	      "format");
	desc.ctl = (u64)ctl;
}

static u32 chance(struct worker *w)
{
	w->seed = w->seed * 1664525 + 1013904223;
	return w->seed >> 8;
}

/* A trie's keys: whole addresses, and those that all share prefixes of them too. */
static u64 key_of(u32 number)
{
	u32 len = number >= NOBODY ? 16 + number % 17 : 32;

	if (type != LPM_TRIE)
		return number;
	return len | (u64)__builtin_bswap32(number * 2654435761u) << 32;
}

static long put(struct worker *w, u32 number, u64 content)
{
	u64 key = key_of(number), value[2] = { content, content };

	return shim_map_sys_update(&desc, &key, value, 0, &w->run);
}

static long cut(struct worker *w, u32 number)
{
	u64 key = key_of(number);

	return shim_map_sys_delete(&desc, &key, &w->run);
}

/* Both halves; 0: it is not there. */
static void get(struct worker *w, u32 number, u64 *value)
{
	u64 key = key_of(number);
	long err = shim_map_sys_lookup(&desc, &key, value, 0, &w->run);

	while (err == -EBUSY)
		err = shim_map_sys_lookup(&desc, &key, value, 0, &w->run);
	check(!err || err == -ENOENT, "%ld", err);
	if (err || value[0] >> 32 == 0) /* of a prefix that all share */
		value[0] = value[1] = 0;
}

static bool evicts(void)
{
	return type == LRU_HASH;
}

static void change(struct worker *w, u32 n)
{
	struct model *m = w->m;
	u64 next = chance(w) % 3 ? (u64)(m->first + n + 1) << 32 | ++m->changes : 0;
	long err;

	__atomic_store_n(&m->next, next, __ATOMIC_RELEASE);
	__atomic_store_n(&m->intent, n + 1, __ATOMIC_RELEASE);
	err = next ? put(w, m->first + n, next) : cut(w, m->first + n);
	if (err == -EBUSY) { /* nothing was done: a holder had no CPU for a second */
		__atomic_store_n(&m->intent, 0, __ATOMIC_RELEASE);
		return;
	}
	if (!next && evicts() && err == -ENOENT)
		err = 0;
	check(err == (!next && !m->value[n] && !evicts() ? -ENOENT : 0), "%ld", err);
	__atomic_store_n(&m->value[n], next, __ATOMIC_RELEASE);
	__atomic_store_n(&m->intent, 0, __ATOMIC_RELEASE);
}

static void look(struct worker *w, u32 n)
{
	u64 found[2];

	get(w, w->m->first + n, found);
	check(found[0] == found[1], "torn: %llx %llx", found[0], found[1]);
	check(found[0] == w->m->value[n] || (evicts() && !found[0]), "key %u: %llx, expected %llx",
	      w->m->first + n, found[0], w->m->value[n]);
}

static void walk(struct worker *w)
{
	u64 key, next;
	bool first = true;

	for (u32 n = 0; n < 2 * desc.max_entries; n++, first = false, key = next)
		if (shim_map_sys_next_key(&desc, first ? 0 : &key, &next, &w->run))
			break;
}

static void *work(void *arg)
{
	struct worker *w = arg;

	while (!__atomic_load_n(&all->stop, __ATOMIC_RELAXED)) {
		u32 what = chance(w) % 100, n = chance(w) % KEYS,
		    common = NOBODY + chance(w) % SHARED_KEYS;
		long err = 0;

		if (what < 45)
			change(w, n);
		else if (what < 80)
			look(w, n);
		else if (what < 88)
			err = put(w, common, n);
		else if (what < 96)
			err = cut(w, common);
		else if (what < 97)
			walk(w);
		check(!err || err == -ENOENT || err == -EBUSY, "%ld", err);
	}
	return NULL;
}

static void start(struct worker *w, struct model *m, u32 owner, u32 thread)
{
	memset(w, 0, sizeof(*w));
	w->m = m;
	w->run.ctl = (u64)ctl;
	w->run.vcpu = 0;
	w->run.owner = owner | (thread + 1);
	w->seed = m->first * 2654435761u + 1;
}

static void *run_threads(void *arg)
{
	struct model *models = arg;
	static struct worker w[MAX_THREADS];
	u32 owner = shim_slot_claim(ctl, (u32)getpid(), 0);
	pthread_t ids[MAX_THREADS];

	check(owner, "no slot");
	for (u32 i = 0; i < nthreads; i++) {
		start(&w[i], &models[i], owner, i);
		check(!pthread_create(&ids[i], 0, work, &w[i]), "thread");
	}
	for (u32 i = 0; i < nthreads; i++)
		pthread_join(ids[i], 0);
	return NULL;
}

static pid_t spawn(u32 process)
{
	struct model *models = all->model[process];
	pid_t pid;

	memset(models, 0, sizeof(all->model[process]));
	for (u32 i = 0; i < nthreads; i++, all->numbers += KEYS)
		models[i].first = all->numbers % NOBODY;
	pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG,
		      SIGKILL); /* who goes on holds up whoever waits for the output */
		run_threads(models);
		_exit(0);
	}
	return pid;
}

/* Who is killed at an overwrite leaves some words of it, and the rest as it was. */
static bool half(const struct model *m, u32 n, u64 found)
{
	return found == m->value[n] || (m->intent == n + 1 && found == m->next);
}

/* What a process has left is what it said; then its keys go. */
static u64 settle(struct worker *w, u32 process)
{
	u64 changes = 0;

	for (u32 i = 0; i < nthreads; i++) {
		struct model *m = &all->model[process][i];

		for (u32 n = 0; n < KEYS; n++) {
			u64 found[2];

			get(w, m->first + n, found);
			check((half(m, n, found[0]) && half(m, n, found[1])) || (evicts() && !found[0]),
			      "key %u: %llx %llx, expected %llx or %llx (%u)", m->first + n, found[0],
			      found[1], m->value[n], m->next, m->intent);
			while (cut(w, m->first + n) == -EBUSY)
				;
			get(w, m->first + n, found);
			check(!found[0], "key %u is still there", m->first + n);
		}
		changes += m->changes;
	}
	return changes;
}

static u32 count(struct worker *w)
{
	u64 key, next;
	u32 n = 0;

	for (; n <= desc.max_entries; n++, key = next)
		if (shim_map_sys_next_key(&desc, n ? &key : 0, &next, &w->run))
			break;
	return n;
}

static void whole(struct worker *w)
{
	u32 entries = desc.max_entries, n;

	for (n = 0; n < SHARED_KEYS; n++)
		cut(w, NOBODY + n);
	check(evicts() || !count(w), "%u elements are nobody's", count(w));
	for (n = 0; n < entries + 1000;
	     n++) /* those that died with elements in hand are found on the way */
		if (put(w, n, (u64)1 << 32))
			break;
	/* an LRU map keeps some elements free; now and then it has none */
	for (; evicts() && n < entries + 2000 && count(w) != entries; n++)
		put(w, n, (u64)1 << 32);
	check(count(w) == entries && (evicts() || n == entries), "room for %u of %u", count(w),
	      entries);
}

int main(int argc, char **argv)
{
	static struct worker me;
	static struct model mine;
	pid_t pids[MAX_PROCESSES];
	u32 processes, kills = 0;
	u64 changes = 0;
	double end;
	int status;

	if (argc != 5)
		return 2;
	type = (u32)atoi(argv[1]);
	processes = (u32)atoi(argv[3]);
	nthreads = (u32)atoi(argv[4]);
	ctl = shared_memory(sizeof(*ctl));
	all = shared_memory(sizeof(*all));
	ctl->nr_vcpus = 1;
	for (u32 i = 0; i < SHIM_MAX_SLOTS; i++)
		ctl->slot[i].gen = 1;
	status = (int)((processes ? processes : 1) * nthreads * KEYS + SHARED_KEYS);
	make(type == LRU_HASH ? (u32)status / 2 : (u32)status + 64);
	mine.first = NOBODY - 1;
	start(&me, &mine, shim_slot_claim(ctl, (u32)getpid(), 0), 4000);
	end = now() + atof(argv[2]);
	if (!processes) {
		pthread_t clock;

		memset(all->model, 0, sizeof(all->model));
		for (u32 i = 0; i < nthreads; i++, all->numbers += KEYS)
			all->model[0][i].first = all->numbers;
		check(!pthread_create(&clock, 0, run_threads, all->model[0]), "thread");
		while (now() < end)
			usleep(10000);
		__atomic_store_n(&all->stop, 1, __ATOMIC_RELAXED);
		pthread_join(clock, 0);
		changes += settle(&me, 0);
	}
	for (u32 i = 0; i < processes; i++)
		pids[i] = spawn(i);
	while (processes && now() < end) {
		u32 at = chance(&me) % processes;

		usleep(2000 + chance(&me) % 20000); /* how long they live is the experiment */
		kill(pids[at], SIGKILL);
		check(waitpid(pids[at], &status, 0) == pids[at] && WIFSIGNALED(status), "%x", status);
		bury(ctl, pids[at]);
		changes += settle(&me, at);
		pids[at] = spawn(at);
		kills++;
	}
	__atomic_store_n(&all->stop, 1, __ATOMIC_RELAXED);
	for (u32 i = 0; i < processes; i++) {
		check(waitpid(pids[i], &status, 0) == pids[i] && !status, "%x", status);
		changes += settle(&me, i);
	}
	whole(&me);
	printf("%llu changes, %u killed\n", changes, kills);
	return 0;
}
