/* Inside the LPM trie: layout and what its files use of each other. */
#ifndef SHIM_MAP_LPM_H
#define SHIM_MAP_LPM_H

#include "runtime.h"

enum { LPM_PREFIX = 4 }; /* bytes of a key before its data: struct bpf_lpm_trie_key's prefixlen */

enum { LPM_LATELY = 256 };

struct node {
	u32 child[2]; /* index + 1, 0: none */
	u32 prefixlen; /* bits */
	u32 bare; /* an inner node that no element is at: it has two children; or LPM_GONE */
	u32 next; /* index + 1: of the free list, or of an element's chain */
	u32 parent; /* index + 1, 0: it is the root */
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
	u64 lens; /* which lengths elements have: each + 1 in 16 bits, the longest lowest; or LPM_MANY */
	u32 turn; /* odd: trie and chains are being changed */
	u32 apart; /* elements in no chain */
	u32 nr_lens;
	u32 pad[3];
	u32 lately
		[LPM_LATELY]; /* index + 1: below which node was put in last, by 8 bits of the prefix */
	u32 count[]; /* elements of each length, lpm_max_prefix() + 1; chains' heads follow */
};
SHIM_ASSERT(sizeof(struct trie) == 64 + 4 * LPM_LATELY);

#define LPM_MANY (~0ull)
enum { LPM_GONE = 2 /* of bare: in the trie no longer */ };
enum { LPM_LENS = 4 /* in trie.lens */, LPM_CHAIN = 32 /* looked at */, LPM_UNSURE = 0xffffffff };

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

static inline struct prefix prefix_of_node(const struct shim_map_desc *d, const struct node *n)
{
	return (struct prefix){ READ_ONCE(n->prefixlen), n->data, lpm_load(n->data, lpm_data_size(d)) };
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

/* Do the first len bits agree? */
bool lpm_same_long(const struct shim_map_desc *d, const struct node *n, const struct prefix *key,
		   u32 len);

static inline bool lpm_same(const struct shim_map_desc *d, const struct node *n,
			    const struct prefix *key, u32 len)
{
	u64 word;

	if (lpm_data_size(d) > 8)
		return lpm_same_long(d, n, key, len);
	word = __builtin_bswap64(__atomic_load_n((const u64 *)n->data, __ATOMIC_RELAXED));
	return !len || !((word ^ key->word) >> (64 - len));
}

/* Of the first len bits, at most as many as the data has. */
u32 lpm_hash_long(const struct shim_map_desc *d, const struct prefix *key, u32 len);

/* Of up to 64 bits. The first byte lowest: products carry upwards. */
static inline u64 lpm_mix(u64 word, u32 len)
{
	u64 w = len ? __builtin_bswap64(word & ~0ull << (64 - len)) : 0;

	return ((w ^ w >> 32) + len * 0x9e3779b97f4a7c15ull) * 0xc4ceb9fe1a85ec53ull;
}

/* The head of the chain of all elements with these bits. */
static inline u32 *lpm_bucket(const struct shim_map_desc *d, const struct prefix *key, u32 len)
{
	u32 hash = lpm_data_size(d) > 8 ? lpm_hash_long(d, key, len)
					: (u32)(lpm_mix(key->word, len) >> 32);

	return (u32 *)desc_at(d, d->bucket_off) + (hash & d->bucket_mask);
}

/* Index + 1 of a link, or 0 if it leads nowhere. */
static inline u32 link_read(const struct shim_map_desc *d, const u32 *link)
{
	u32 at = __atomic_load_n(link, __ATOMIC_ACQUIRE);

	return at <= d->nr_elems ? at : 0;
}

/* The element with the first len bits of the key, by its chain. 0: it is in none. LPM_UNSURE. */
static inline u32 lpm_exact(const struct shim_map_desc *d, const u32 *head, const struct prefix *key,
			    u32 len)
{
	u32 at = link_read(d, head);

	for (u32 n = 0; at; n++) {
		struct node *node = node_at(d, at);

		if (n == LPM_CHAIN)
			return LPM_UNSURE;
		if (READ_ONCE(node->prefixlen) == len && lpm_same(d, node, key, len))
			break;
		at = link_read(d, &node->next);
	}
	return at;
}

/* The trie's lock, with what a dead owner left put in order; -EBUSY. */
long lpm_lock(const struct shim_map_desc *d, struct shim_run *run);
void lpm_unlock(const struct shim_map_desc *d, struct shim_run *run);

/* map_lpm_chain.c, with the lock: an element is in the trie from now on, or no longer, or another node
 * of the same prefix is it. head: its chain's, for `len` bits. clear: there is none. */
void lpm_added(const struct shim_map_desc *d, u32 *head, u32 len, u32 at);
void lpm_removed(const struct shim_map_desc *d, u32 *head, u32 len, u32 at);
void lpm_replaced(const struct shim_map_desc *d, u32 *head, u32 old, u32 at);
void lpm_chains_clear(const struct shim_map_desc *d);

/* map_lpm_read.c */
void *lpm_lookup(const struct shim_map_desc *d, const void *key, struct shim_run *run);
long lpm_sys_lookup(const struct shim_map_desc *d, const void *key, void *value, u64 flags,
		    struct shim_run *run);
long lpm_sys_next(const struct shim_map_desc *d, const void *key, void *next, struct shim_run *run);

#endif
