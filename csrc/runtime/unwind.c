/*
 * One frame outwards by a module's table (shim_unwind_rule). The list of modules is read by runs while
 * it changes: a reader that met a change looks again, and at last does without.
 */
#include "unwind.h"

enum { TRIES = 4 };
/* linux/ucontext.h, asm/sigcontext.h: where a signal frame keeps rbp, rsp and rip */
enum { UC_RBP = 120, UC_RSP = 160, UC_RIP = 168 };

static struct {
	u32 seq; /* odd: being changed */
	u32 nr;
	struct shim_unwind_module at[SHIM_MAX_UNWIND]; /* by start */
} modules;

/* The last of nr that starts at or below ip, or -1. */
static long below(u64 ip, u32 nr)
{
	u32 lo = 0, hi = nr < SHIM_MAX_UNWIND ? nr : SHIM_MAX_UNWIND;

	while (lo < hi) {
		u32 mid = (lo + hi) / 2;

		if (READ_ONCE(modules.at[mid].start) <= ip)
			lo = mid + 1;
		else
			hi = mid;
	}
	return (long)lo - 1;
}

static bool find(u64 ip, struct shim_unwind_module *found)
{
	for (u32 i = 0; i < TRIES; i++) {
		u32 seq = __atomic_load_n(&modules.seq, __ATOMIC_ACQUIRE);
		long at = below(ip, READ_ONCE(modules.nr));

		if (at >= 0)
			copy_out(found, &modules.at[at], sizeof(*found));
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		if (!(seq & 1) && READ_ONCE(modules.seq) == seq)
			return at >= 0 && ip < found->end;
	}
	return false;
}

bool unwind_rule(u64 ip, struct shim_unwind_rule *rule)
{
	struct shim_unwind_module m;
	const u32 *address;
	const u64 *rules;
	u32 lo = 0, hi, at;
	u64 word;

	if (!find(ip, &m) || ip < m.base || ip - m.base > 0xffffffffull)
		return false;
	at = (u32)(ip - m.base);
	address = (const u32 *)m.table;
	rules = (const u64 *)(m.table + round_up(m.rows * 4ull, 8));
	for (hi = m.rows; lo < hi;) {
		u32 mid = lo + (hi - lo) / 2;

		if (READ_ONCE(address[mid]) <= at)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (!lo)
		return false;
	word = READ_ONCE(rules[lo - 1]);
	__builtin_memcpy(rule, &word, sizeof(word));
	return rule->how != SHIM_UNWIND_NONE;
}

bool unwind_build_id(u64 ip, u8 *id, u64 *offset)
{
	struct shim_unwind_module m;

	if (!find(ip, &m) || !m.has_id)
		return false;
	memcpy(id, m.build_id, sizeof(m.build_id));
	*offset = ip + m.file;
	return true;
}

static bool out_of_signal(struct stack_window *w, struct frame *f)
{
	u64 at = f->sp;

	f->call = false;
	return stack_word(w, at + UC_RBP, &f->fp) && stack_word(w, at + UC_RSP, &f->sp) &&
	       stack_word(w, at + UC_RIP, &f->ip);
}

bool unwind_step(struct stack_window *w, struct frame *f, const struct shim_unwind_rule *rule)
{
	u64 cfa = f->sp + (u64)(s64)rule->cfa;

	if (rule->how == SHIM_UNWIND_SIGNAL)
		return out_of_signal(w, f);
	if (rule->how == SHIM_UNWIND_PLT)
		cfa = f->sp + 8 + ((f->ip & 15) >= (u32)rule->cfa ? 8 : 0);
	else if (rule->how != SHIM_UNWIND_RSP)
		cfa = f->fp + (u64)(s64)rule->cfa;
	if (rule->how == SHIM_UNWIND_END ||
	    (rule->how == SHIM_UNWIND_RBP_AT && !stack_word(w, cfa, &cfa)))
		return false;
	if (cfa <= f->sp) /* the stack of a caller lies above */
		return false;
	if (rule->rbp == SHIM_UNWIND_LOST)
		f->fp = 0;
	else if (rule->how == SHIM_UNWIND_RBP_AT && !stack_word(w, f->fp, &f->fp))
		return false;
	else if (rule->rbp != SHIM_UNWIND_SAME && !stack_word(w, cfa + (u64)(s64)rule->rbp, &f->fp))
		return false;
	f->sp = cfa;
	f->call = true;
	return stack_word(w, cfa - 8, &f->ip);
}

/* Insertion by start: a session gives its modules in order. */
static void insert(const struct shim_unwind_module *m, u32 session)
{
	u32 at = modules.nr++;

	for (; at && modules.at[at - 1].start > m->start; at--)
		copy_words(&modules.at[at], &modules.at[at - 1], sizeof(*m));
	copy_words(&modules.at[at], m, sizeof(*m));
	WRITE_ONCE(modules.at[at].session, session);
}

void shim_unwind_set(u32 session, const struct shim_unwind_module *given, u32 nr, u32 more)
{
	u32 kept = 0, seq = modules.seq | 1;

	__atomic_store_n(&modules.seq, seq, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_RELEASE);
	for (u32 i = 0; i < modules.nr; i++)
		if (more || modules.at[i].session != session)
			copy_words(&modules.at[kept++], &modules.at[i], sizeof(*given));
	WRITE_ONCE(modules.nr, kept);
	for (u32 i = 0; i < nr && modules.nr < SHIM_MAX_UNWIND; i++)
		insert(&given[i], session);
	__atomic_store_n(&modules.seq, seq + 1, __ATOMIC_RELEASE);
}
