/*
 * keepers SECONDS PROCESSES THREADS KILL: threads that claim virtual CPUs as hits do, kept from run to run, while
 * they are moved from CPU to CPU. KILL: processes are killed now and then.
 *
 * A run counts with plain instructions in what belongs to its virtual CPU. Two runs on one at a time are seen by
 * what the other has left there, and by the sum.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stress.h"
#include "shim_vcpu.h"

enum { VCPUS = 8, MAX_PROCESSES = 16, MAX_THREADS = 8 };

struct cell { /* of a virtual CPU */
	volatile u32 inside;
	volatile u64 runs;
	u8 pad[48];
};

struct tally { /* of a thread */
	volatile u64 runs, again, kept, claimed;
	volatile u32 tid;
	u8 pad[28];
};

struct shared {
	u32 stop;
	struct cell cell[VCPUS];
	struct tally tally[MAX_PROCESSES][MAX_THREADS];
};

static struct shim_ctl *ctl;
static struct shared *all;
static u32 process, nthreads, owner;

static u32 chance(u32 *seed)
{
	*seed = *seed * 1664525u + 1013904223u;
	return *seed >> 8;
}

static bool is_of_the_dead(u32 word)
{
	const struct shim_slot *slot = &ctl->slot[word >> SHIM_OWNER_SLOT_SHIFT];
	char path[32], text[256] = "";
	const char *name;
	FILE *stat;

	if (slot->state != SHIM_SLOT_LIVE ||
	    slot->gen != (word >> SHIM_OWNER_GEN_SHIFT & ((1u << SHIM_OWNER_GEN_BITS) - 1)))
		return true;
	snprintf(path, sizeof(path), "/proc/%u/stat", slot->pid);
	stat = fopen(path, "r");
	if (!stat)
		return true;
	if (!fgets(text, sizeof(text), stat))
		text[0] = 0;
	fclose(stat);
	name = strrchr(text, ')');
	return !name || name[2] == 'Z' || name[2] == 'X';
}

static u32 begin(struct tally *t, u32 entry, u32 me)
{
	u32 vcpu = shim_vcpu_again(ctl, entry, me);

	if (vcpu != SHIM_NO_VCPU) {
		t->again++;
		return vcpu;
	}
	vcpu = shim_vcpu_keep(ctl, entry, me);
	if (vcpu != SHIM_NO_VCPU) {
		t->kept++;
		return vcpu;
	}
	t->claimed++;
	return shim_vcpu_claim(ctl, me);
}

static void run(struct tally *t, u32 entry, u32 me, u32 *seed)
{
	u32 vcpu = begin(t, entry, me), seen;
	struct cell *cell = &all->cell[vcpu % VCPUS];
	u64 runs;

	check(vcpu < VCPUS, "%x has none", me);
	runs = cell->runs;
	seen = cell->inside;
	cell->inside = me;
	check(!seen || is_of_the_dead(seen), "%x: %u is %x's", me, vcpu, seen);
	if (chance(seed) % 512 == 0)
		sched_yield();
	else if (chance(seed) % 256 == 0)
		for (u32 n = chance(seed) % 2000; n; n--)
			__asm__ volatile("" ::: "memory");
	check(cell->inside == me, "%x: %u is %x's now", me, vcpu, cell->inside);
	cell->inside = 0;
	cell->runs = runs + 1;
	t->runs++;
	shim_vcpu_release(ctl, vcpu, me);
}

static void *work(void *arg)
{
	struct tally *t = arg;
	u32 me = owner | (u32)(t - all->tally[process] + 1), entry = shim_vcpu_entry(ctl, me);
	u32 seed = me * 2654435761u;

	check(entry >= VCPUS, "no entry for %x", me);
	t->tid = (u32)syscall(SYS_gettid);
	while (!__atomic_load_n(&all->stop, __ATOMIC_RELAXED)) {
		run(t, entry, me, &seed);
		if (chance(&seed) % 64 == 0) /* hits are apart */
			for (u32 n = chance(&seed) % 500; n; n--)
				__asm__ volatile("" ::: "memory");
	}
	return NULL;
}

static pid_t spawn(u32 number)
{
	pid_t pid = fork();
	pthread_t ids[MAX_THREADS];

	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	process = number;
	owner = shim_slot_claim(ctl, (u32)getpid(), 0);
	check(owner, "no slot");
	for (u32 i = 0; i < nthreads; i++)
		check(!pthread_create(&ids[i], 0, work, &all->tally[number][i]), "thread");
	for (u32 i = 0; i < nthreads; i++)
		pthread_join(ids[i], 0);
	_exit(0);
}

/* One thread to one CPU, so that it is there next in what it is in the midst of. */
static void move(u32 tid, u32 *seed)
{
	u32 cpu = chance(seed) % (u32)sysconf(_SC_NPROCESSORS_ONLN);
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (tid)
		sched_setaffinity((pid_t)tid, sizeof(set), &set);
}

int main(int argc, char **argv)
{
	u32 processes, seed = 1, kills = 0, moves = 0;
	u64 runs = 0, counted = 0, again = 0, kept = 0, claimed = 0;
	pid_t pids[MAX_PROCESSES];
	double end;
	int status;

	if (argc != 5)
		return 2;
	processes = (u32)atoi(argv[2]);
	nthreads = (u32)atoi(argv[3]);
	ctl = shared_memory(sizeof(*ctl));
	all = shared_memory(sizeof(*all));
	ctl->nr_vcpus = VCPUS;
	for (u32 i = 0; i < SHIM_MAX_SLOTS; i++)
		ctl->slot[i].gen = 1;
	for (u32 i = 0; i < processes; i++)
		pids[i] = spawn(i);
	for (end = now() + atof(argv[1]); now() < end; moves++) {
		u32 at = chance(&seed) % processes;

		move(all->tally[at][chance(&seed) % nthreads].tid, &seed);
		usleep(chance(&seed) % 200);
		if (atoi(argv[4]) && chance(&seed) % 100 == 0) {
			kill(pids[at], SIGKILL);
			check(waitpid(pids[at], &status, 0) == pids[at] && WIFSIGNALED(status), "%x",
			      status);
			bury(ctl, pids[at]);
			pids[at] = spawn(at);
			kills++;
		}
	}
	__atomic_store_n(&all->stop, 1, __ATOMIC_RELAXED);
	for (u32 i = 0; i < processes; i++) {
		check(waitpid(pids[i], &status, 0) == pids[i] && !status, "%x", status);
		for (u32 n = 0; n < nthreads; n++) {
			const struct tally *t = &all->tally[i][n];

			runs += t->runs, again += t->again, kept += t->kept, claimed += t->claimed;
		}
	}
	for (u32 i = 0; i < VCPUS; i++)
		counted += all->cell[i].runs;
	check(kills || counted == runs, "%llu of %llu counted", counted, runs);
	printf("%llu again, %llu kept, %llu claimed, %u moved, %u killed\n", again, kept, claimed,
	       moves, kills);
	return 0;
}
