/*
 * Questions to the backend, which sees a process of another namespace of process numbers from outside
 * (struct shim_ask). Who is killed while it asks leaves its entry to the backend to be taken back; who
 * stood still for so long that this has happened sees it by the entry's number. Nobody waits once
 * more where an answer has failed to come for long, until the backend looks again.
 */
#include "runtime.h"
#include "shim_names.h"

enum { NR_FUTEX = 202, FUTEX_WAIT_ = 0, SRCH = 3, TIMEDOUT = 110 };
enum { SLICE_NS = 5000000, SLICES = 400 };
enum { PHASE = (1 << SHIM_ASK_BITS) - 1, NEXT = 1 << SHIM_ASK_BITS };

struct shim_names shim_names;

static bool step(struct shim_ask *a, u32 from, u32 to)
{
	return __atomic_compare_exchange_n(&a->state, &from, to, false, __ATOMIC_ACQ_REL,
					   __ATOMIC_RELAXED);
}

static struct shim_ask *take(struct shim_ctl *ctl, u32 *generation)
{
	for (u32 i = 0; i < SHIM_MAX_ASKS; i++) {
		struct shim_ask *a = &ctl->ask[i];
		u32 state = __atomic_load_n(&a->state, __ATOMIC_ACQUIRE);

		if ((state & PHASE) == SHIM_ASK_FREE && step(a, state, state | SHIM_ASK_TAKEN)) {
			*generation = state;
			return a;
		}
	}
	return 0;
}

void shim_ask_close(struct shim_ask *a)
{
	u32 state = __atomic_load_n(&a->state, __ATOMIC_ACQUIRE);

	if ((state & PHASE) == SHIM_ASK_ANSWERED)
		step(a, state, (state & ~(u32)PHASE) + NEXT);
}

/* Until the answer is there. false: it does not come, and the entry is not ours any more. */
static bool answered(struct shim_ctl *ctl, struct shim_ask *a, u32 generation)
{
	s64 slice[2] = { 0, SLICE_NS };
	u32 silent = __atomic_load_n(&ctl->ask_silent, __ATOMIC_ACQUIRE);

	for (u32 i = 0; i <= SLICES; i++) {
		u32 state = __atomic_load_n(&a->state, __ATOMIC_ACQUIRE);

		if (state == (generation | SHIM_ASK_ANSWERED))
			return true;
		if ((state & ~(u32)PHASE) != generation)
			return false; /* it was taken back meanwhile */
		if (silent || i == SLICES ||
		    __atomic_load_n(&ctl->backend_lock[0], __ATOMIC_ACQUIRE) & SHIM_BACKEND_DEAD)
			break;
		shim_sys6(NR_FUTEX, (long)&a->state, FUTEX_WAIT_, state, (long)slice, 0, 0);
	}
	__atomic_store_n(&ctl->ask_silent, 1, __ATOMIC_RELEASE);
	/* one that is being answered just now is the backend's to take back */
	step(a, generation | SHIM_ASK_ASKED, generation + NEXT);
	return false;
}

static struct shim_ask *ask(struct shim_ctl *ctl, u32 what, u32 pid, u32 number, const char *name)
{
	u32 generation = 0, at = 0;
	struct shim_ask *a = take(ctl, &generation);

	if (!a)
		return 0;
	a->what = what;
	a->pid = pid;
	a->number = number;
	a->ns = shim_names.ns;
	for (; name && name[at] && at < sizeof(a->text) - 1; at++)
		a->text[at] = name[at];
	a->text[at] = 0;
	if (!step(a, generation | SHIM_ASK_TAKEN, generation | SHIM_ASK_ASKED))
		return 0;
	__atomic_add_fetch(&ctl->ask_seq, 1, __ATOMIC_ACQ_REL);
	futex_wake(&ctl->ask_seq);
	if (!answered(ctl, a, generation))
		return 0;
	if (a->of != number) { /* asked in two names at once, one of which had stood still */
		shim_ask_close(a);
		return 0;
	}
	return a;
}

long shim_ask(struct shim_ctl *ctl, u32 what, u32 pid, u32 number, u64 *start)
{
	struct shim_ask *a = ask(ctl, what, pid, number, 0);
	long ret = a ? a->answer : -TIMEDOUT;

	if (start)
		*start = a ? a->start_time : 0;
	if (a)
		shim_ask_close(a);
	return ret;
}

struct shim_ask *shim_ask_open(struct shim_ctl *ctl, u32 pid, const char *name)
{
	struct shim_ask *a = ask(ctl, SHIM_ASK_FILE, pid, pid, name);

	if (a && (a->answer < 0 || (u32)a->answer > sizeof(a->text))) {
		shim_ask_close(a);
		return 0;
	}
	return a;
}

long shim_ask_file(struct shim_ctl *ctl, u32 pid, const char *name, void *text, u64 room)
{
	struct shim_ask *a = shim_ask_open(ctl, pid, name);
	long n;

	if (!a)
		return -SRCH;
	n = (u64)a->answer < room ? a->answer : (long)room;
	memcpy(text, a->text, (u64)n);
	shim_ask_close(a);
	return n;
}

u32 shim_ask_level(struct shim_ctl *ctl, u32 pid, u64 upid[2 * SHIM_UPIDS])
{
	static const char name[] = "\nNSpid:";
	struct shim_ask *a = shim_names.foreign ? shim_ask_open(ctl, pid, "status") : 0;
	u32 count = 0, len = a ? (u32)a->answer : 0, at = 0;

	memset(upid, 0, 2 * SHIM_UPIDS * sizeof(u64));
	while (at + sizeof(name) < len && memcmp(a->text + at, name, sizeof(name) - 1))
		at++;
	for (at += sizeof(name) - 1; at < len && a->text[at] == '\t' && count < SHIM_UPIDS; count++)
		for (at++; at < len && a->text[at] >= '0' && a->text[at] <= '9'; at++)
			upid[2 * count] = upid[2 * count] * 10 + (u64)(a->text[at] - '0');
	if (a)
		shim_ask_close(a);
	upid[0] = pid;
	return count ? count - 1 : 0;
}
