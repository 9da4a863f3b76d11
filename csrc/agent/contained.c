/*
 * Isolated programs (libbpf_shim/jit/isolated.py): what is the agent's own and not to be read in
 * their name, and the end of one that would have left its window.
 */
#include "state.h"

enum { PAGE_BITS = AGENT_PAGE - 1, FUTEX_WAKE_ = 1 };

extern const u8 __ehdr_start[] __attribute__((visibility("hidden")));
extern const u8 _end[] __attribute__((visibility("hidden")));

/* How many of `bytes` from addr on lie before [from, to). */
static u64 before(u64 addr, u64 bytes, u64 from, u64 to)
{
	if (addr >= to)
		return bytes;
	if (addr >= from)
		return 0;
	return bytes < from - addr ? bytes : from - addr;
}

/* The agent's own code and data, and all that it has mapped but windows. */
u64 agent_host_clip(u64 addr, u64 bytes)
{
	const struct shim_agent *root = &shim_agent_root;
	u64 end = ((u64)_end + PAGE_BITS) & ~(u64)PAGE_BITS;

	if (addr + bytes < addr)
		return 0;
	bytes = before(addr, bytes, (u64)__ehdr_start, end);
	for (u32 i = 0; i < SHIM_MAX_OWNED && bytes; i++) {
		const struct shim_owned *o = &root->owned[i];
		u64 len = agent_load(&o->len);

		if (len && o->shared != SHIM_OWNED_WINDOW)
			bytes = before(addr, bytes, o->addr, o->addr + len);
	}
	return bytes;
}

/* Under root.lock. Addresses that are reserved for a window of that session. */
int agent_in_window(u64 addr, u64 len, u32 session)
{
	for (u32 i = 0; i < SHIM_MAX_OWNED; i++) {
		const struct shim_owned *o = &shim_agent_root.owned[i];

		if (o->len && o->shared == SHIM_OWNED_WINDOW && o->session == session &&
		    addr >= o->addr && len <= o->len && addr - o->addr <= o->len - len)
			return 1;
	}
	return 0;
}

/* The program's links, in this session: nobody runs it any more, in no process. */
static void silence(const struct shim_ctl *ctl, u32 prog_id)
{
	for (u32 i = 0; i < shim_agent_root.nr_links && i < SHIM_MAX_SITE_LINKS; i++) {
		struct shim_site_link *link = &agent_links()[i];

		if (agent_load(&link->live) && link->prog_id == prog_id && link->ctl == (u64)ctl)
			agent_store(&((struct shim_link_state *)link->state)->enabled, 0u);
	}
}

/* Where nobody reads the table, what it would say is lost: the links are silent all the same. */
static void tell(struct shim_ctl *ctl, u32 prog_id, u64 offset)
{
	for (u32 i = 0; i < SHIM_MAX_CONTAINED; i++) {
		struct shim_contained *c = &ctl->contained[i];
		u32 none = SHIM_CONTAINED_FREE;

		if (!__atomic_compare_exchange_n(&c->state, &none, SHIM_CONTAINED_TAKEN, 0,
						 __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
			continue;
		c->prog_id = prog_id;
		c->pid = agent_seen_pid();
		c->offset = (u32)offset;
		__atomic_store_n(&c->state, SHIM_CONTAINED_TOLD, __ATOMIC_RELEASE);
		break;
	}
	__atomic_add_fetch(&ctl->backend_seq, 1, __ATOMIC_ACQ_REL);
	shim_sys3(NR_FUTEX, &ctl->backend_seq, FUTEX_WAKE_, 0x7fffffff);
}

/* Called by image.S. where: what follows the access in the program's image, which is at text. run: if it
 * may hold something, else 0. */
void agent_contained_at(struct shim_ctl *ctl, u64 prog_id, u64 where, u64 text, struct shim_run *run)
{
	if (run)
		shim_held_end(run);
	silence(ctl, (u32)prog_id);
	tell(ctl, (u32)prog_id, where - text);
}
