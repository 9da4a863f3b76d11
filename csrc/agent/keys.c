/*
 * Sessions under a protection key (`isolation: mpk`, docs/architecture.md): control page, perf area,
 * maps, their descriptors and tables can be reached where the key is open, which is in the agent alone
 * (keys.S). What leads there, the tables of sites and links, is read-only but for conversations. All of
 * it under root.lock.
 *
 * A thread may be in a hit as that begins, without having opened anything. So links of the session say
 * that first, then runs in progress end (those of others are not waited for where threads stand
 * still), then memory goes under the key; who comes along without it passes by (agent_wanted).
 */
#include "keys.h"
#include "shim_map.h"

enum {
	NR_PKEY_MPROTECT = 329,
	NR_PKEY_ALLOC = 330,
	NR_PKEY_FREE = 331,
	DENY_ACCESS = 1,
	KEYS = 16,
	LEAF = 7,
	OSPKE = 1 << 4,
};

static int supported(void)
{
	u32 most, a, b, c, d;

	__asm__ volatile("cpuid" : "=a"(most), "=b"(b), "=c"(c), "=d"(d) : "a"(0), "c"(0));
	if (most < LEAF)
		return 0;
	__asm__ volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(LEAF), "c"(0));
	return (c & OSPKE) != 0;
}

static u32 bits_of(u32 key)
{
	return 3u << 2 * key;
}

static u32 key_of(u32 bits)
{
	return (u32)__builtin_ctz(bits) / 2;
}

/* The highest that is free. Threads have rights to keys that others have given back (pkeys(7)), and the
 * kernel gives out the lowest first. Where other threads run it is the lowest after all: they must find
 * one that is free. */
static long allocate(int alone)
{
	u32 taken[KEYS], n = 0, before = shim_pkru();
	long key = shim_sys2(NR_PKEY_ALLOC, 0, DENY_ACCESS);

	while (alone && key >= 0 && n < KEYS) {
		taken[n++] = (u32)key;
		key = shim_sys2(NR_PKEY_ALLOC, 0, DENY_ACCESS);
	}
	if (n) {
		key = taken[--n];
		while (n)
			shim_sys1(NR_PKEY_FREE, taken[--n]);
	}
	if (key > 0 && key < KEYS)
		before |= bits_of((u32)key) & SHIM_NO_ACCESS;
	shim_pkru_set(before);
	return key;
}

static long begin(u32 patience)
{
	long key;

	if (shim_key_bits)
		return 0;
	if (!supported())
		return -E_OPNOTSUPP;
	key = allocate(!patience || agent_nthreads() == 1);
	if (key < 0)
		return key;
	if (!key || key >= KEYS)
		return -E_OPNOTSUPP;
	shim_agent_root.key_bits = bits_of((u32)key);
	agent_store(&shim_key_bits, bits_of((u32)key));
	shim_key_open(); /* until the conversation ends */
	agent_keys_tables(PROT_RW);
	return 0;
}

static long protect(u64 addr, u64 len, u32 prot)
{
	return shim_sys6(NR_PKEY_MPROTECT, (long)addr, (long)len, prot, key_of(shim_key_bits), 0, 0);
}

static long session(u32 index, u32 patience)
{
	struct shim_session *s = &shim_agent_root.sessions[index];
	long ret = begin(patience);

	if (ret)
		return ret;
	__atomic_fetch_or(&shim_agent_root.keyed, 1ull << index, __ATOMIC_SEQ_CST);
	for (u32 i = 0; i < shim_agent_root.nr_links; i++) {
		struct shim_site_link *link = &agent_links()[i];

		if (link->session != index)
			continue;
		agent_store(&link->flags, link->flags | SHIM_PROG_KEYED);
		agent_store(&link->lean, 0u);
	}
	ret = agent_quiesce(patience);
	if (!ret)
		ret = protect(s->ctl, s->ctl_size, PROT_RW);
	if (!ret && s->perf)
		ret = protect(s->perf, s->perf_size, PROT_RW);
	for (u64 at = s->objects; !ret && at;) {
		const struct shim_objects *table = (const void *)at;

		ret = protect(at, table->size, PROT_RW);
		at = table->prev;
	}
	return ret;
}

/* Ranges of sessions' own alone: it may not lock the application out of its memory. */
static int owns(u64 addr, u64 len)
{
	for (u32 i = 0; i < SHIM_MAX_OWNED; i++) {
		const struct shim_owned *o = &shim_agent_root.owned[i];

		if (o->len && o->session != SHIM_NO_SESSION && addr >= o->addr && len <= o->len &&
		    addr - o->addr <= o->len - len)
			return 1;
	}
	return 0;
}

long agent_keys(const struct shim_agent_keys *msg, u32 patience)
{
	if (msg->session >= SHIM_MAX_SESSIONS || !shim_agent_root.sessions[msg->session].id)
		return -E_INVAL;
	if (!msg->len)
		return session(msg->session, patience);
	if (!(shim_agent_root.keyed >> msg->session & 1) || msg->prot > PROT_RX ||
	    (msg->prot & 6) == 6 || !owns(msg->addr, msg->len))
		return -E_INVAL;
	return protect(msg->addr, msg->len, msg->prot);
}

long agent_keys_also(u32 session, u64 addr, u64 len)
{
	if (!(shim_agent_root.keyed >> session & 1))
		return 0;
	return protect(addr, len, PROT_RW);
}

void agent_keys_tables(u32 prot)
{
	const struct shim_agent *root = &shim_agent_root;

	if (!shim_key_bits || !root->sites || !root->links)
		return;
	shim_sys3(NR_MPROTECT, root->sites, SHIM_MAX_SITES * sizeof(struct shim_site), prot);
	shim_sys3(NR_MPROTECT, root->links, SHIM_MAX_SITE_LINKS * sizeof(struct shim_site_link), prot);
}

void agent_keys_forget(u32 session)
{
	__atomic_fetch_and(&shim_agent_root.keyed, ~(1ull << session), __ATOMIC_SEQ_CST);
}

void agent_keys_end(void)
{
	u32 bits = shim_key_bits;

	if (!bits)
		return;
	agent_store(&shim_key_bits, 0u);
	shim_agent_root.key_bits = 0;
	shim_pkru_set(shim_pkru() | (bits & SHIM_NO_ACCESS));
	shim_sys1(NR_PKEY_FREE, key_of(bits));
}
