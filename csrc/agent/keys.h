/* The process's protection key; see shim_keys.h, keys.c. */
#ifndef AGENT_KEYS_H
#define AGENT_KEYS_H

#include "shim_keys.h"
#include "state.h"

#pragma GCC visibility push(hidden)

/* SHIM_OP_AGENT_KEYS: 0 or -errno. patience: ms for runs in progress. */
long agent_keys(const struct shim_agent_keys *msg, u32 patience);
/* Something of a session's that the agent has mapped by itself: under the key if the session is. Whether
 * it is. */
long agent_keys_also(u32 session, u64 addr, u64 len);
/* The tables of sites and links, where there is a key: writable for the time of a conversation. */
void agent_keys_tables(u32 prot);
/* The session is gone. */
void agent_keys_forget(u32 session);
/* Everything goes, and the key with it. */
void agent_keys_end(void);

#pragma GCC visibility pop

/* Its memory may not be touched here: who comes along when it has just gone under the key. */
static inline int agent_shut(u32 session)
{
	return __builtin_expect((agent_load(&shim_agent_root.keyed) >> session % SHIM_MAX_SESSIONS) & 1,
				0) &&
	       shim_key_closed();
}

#endif
