/* Inside the LPM trie: layout and what its files use of each other. */
#ifndef SHIM_MAP_LPM_H
#define SHIM_MAP_LPM_H

#include "runtime.h"

enum { LPM_PREFIX = 4 }; /* bytes of a key before its data: struct bpf_lpm_trie_key's prefixlen */

struct node {
	u32 child[2]; /* index + 1, 0: none */
	u32 prefixlen; /* bits */
	u32 bare; /* an inner node that no element is at: it has two children */
	u32 next_free; /* index + 1 */
	u32 pad;
	u8 data[]; /* round_up(key_size - LPM_PREFIX, 8), then the value */
};

struct trie {
	u32 lock;
	u32 root; /* index + 1, 0: empty */
	u32 entries;
	u32 fresh; /* nodes never used begin here */
	u32 grown; /* nodes from here on have no memory yet */
	u32 free_first, free_last; /* index + 1: first in, first out */
	u32 seq; /* changes after a node left the trie and before it is used again */
};

static inline struct trie *trie_of(const struct shim_map_desc *d)
{
	return desc_at(d, d->state_off);
}

static inline struct node *node_at(const struct shim_map_desc *d, u32 at)
{
	return desc_at(d, d->elem_off + (u64)(at - 1) * d->stride);
}

static inline u32 lpm_data_size(const struct shim_map_desc *d)
{
	return d->key_size - LPM_PREFIX;
}

static inline void *node_value(const struct shim_map_desc *d, struct node *n)
{
	return n->data + round_up(lpm_data_size(d), 8);
}

static inline u32 lpm_max_prefix(const struct shim_map_desc *d)
{
	return lpm_data_size(d) * 8;
}

/* A key read once: the memory it lies in may be shared. word: the first 8 bytes, the first of them
 * highest. */
struct prefix {
	u32 len;
	const u8 *data;
	u64 word;
};

/* Up to 8 bytes, the first of them highest. */
u64 lpm_load(const u8 *from, u32 left);

static inline struct prefix prefix_of(const struct shim_map_desc *d, const void *key)
{
	const u8 *data = (const u8 *)key + LPM_PREFIX;

	return (struct prefix){ __atomic_load_n((const u32 *)key, __ATOMIC_RELAXED), data,
				lpm_load(data, lpm_data_size(d)) };
}

static inline u32 bit_of(const u8 *data, u32 bit)
{
	return data[bit / 8] >> (7 - bit % 8) & 1;
}

static inline u32 bit_at(const struct prefix *key, u32 bit)
{
	return bit < 64 ? key->word >> (63 - bit) & 1 : bit_of(key->data, bit);
}

/* How many leading bits both have in common, at most the shorter of the two. */
u32 lpm_match_long(const struct shim_map_desc *d, const struct node *n, const struct prefix *key);

static inline u32 lpm_match(const struct shim_map_desc *d, const struct node *n,
			    const struct prefix *key)
{
	u32 len = __atomic_load_n(&n->prefixlen, __ATOMIC_RELAXED), same = 64;
	u64 differ;

	if (lpm_data_size(d) > 8)
		return lpm_match_long(d, n, key);
	/* what lies behind shorter data is the node's too */
	differ = __builtin_bswap64(__atomic_load_n((const u64 *)n->data, __ATOMIC_RELAXED)) ^ key->word;
	if (differ)
		same = (u32)__builtin_clzll(differ);
	len = len < key->len ? len : key->len;
	return same < len ? same : len;
}

/* Index + 1 of a link, or 0 if it leads nowhere. */
static inline u32 link_read(const struct shim_map_desc *d, const u32 *link)
{
	u32 at = __atomic_load_n(link, __ATOMIC_ACQUIRE);

	return at <= d->nr_elems ? at : 0;
}

/* The trie's lock, with what a dead owner left put in order; -EBUSY. */
long lpm_lock(const struct shim_map_desc *d, struct shim_run *run);
void lpm_unlock(const struct shim_map_desc *d, struct shim_run *run);

/* map_lpm_read.c */
void *lpm_lookup(const struct shim_map_desc *d, const void *key, struct shim_run *run);
long lpm_sys_lookup(const struct shim_map_desc *d, const void *key, void *value, u64 flags,
		    struct shim_run *run);
long lpm_sys_next(const struct shim_map_desc *d, const void *key, void *next, struct shim_run *run);

#endif
