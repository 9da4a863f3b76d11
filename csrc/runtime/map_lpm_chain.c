/*
 * The chains of an LPM trie: elements by the hash of their whole prefix, and which lengths there are. If
 * they are few, a lookup asks the chains for each, the longest first. All of it with the trie's lock.
 *
 * Chains stay short: where there are more elements than CHAINED a bucket, those that come then are in
 * none, and are found through the trie.
 */
#include "map_lpm.h"

enum { CHAINED = 4 };

static void set_lens(const struct shim_map_desc *d)
{
	struct trie *t = trie_of(d);
	u32 n = t->nr_lens;
	u64 lens = 0;

	if (t->apart || n > LPM_LENS)
		lens = LPM_MANY;
	else
		for (u32 len = 0; n && len <= lpm_max_prefix(d); len++)
			if (t->count[len]) {
				lens = lens << 16 | (len + 1);
				n--;
			}
	__atomic_store_n(&t->lens, lens, __ATOMIC_RELEASE);
}

/* The link that leads to the element; NULL: it is in no chain. */
static u32 *chain_link(const struct shim_map_desc *d, u32 *link, u32 at)
{
	for (u32 n = 0, next; n <= d->nr_elems; n++) {
		next = link_read(d, link);
		if (next == at)
			return link;
		if (!next)
			break;
		link = &node_at(d, next)->next;
	}
	return 0;
}

void lpm_added(const struct shim_map_desc *d, u32 *head, u32 len, u32 at)
{
	struct trie *t = trie_of(d);
	bool apart = t->entries - t->apart >= CHAINED * (d->bucket_mask + 1ull);

	if (!apart) {
		WRITE_ONCE(node_at(d, at)->next, READ_ONCE(*head));
		__atomic_store_n(head, at, __ATOMIC_RELEASE);
	}
	t->entries++;
	t->apart += apart;
	t->nr_lens += !t->count[len];
	if (!t->count[len]++ || (apart && t->apart == 1))
		set_lens(d);
}

void lpm_removed(const struct shim_map_desc *d, u32 *head, u32 len, u32 at)
{
	u32 *link = chain_link(d, head, at);
	struct trie *t = trie_of(d);

	if (link)
		__atomic_store_n(link, READ_ONCE(node_at(d, at)->next), __ATOMIC_RELEASE);
	t->entries--;
	t->apart -= !link;
	t->nr_lens -= t->count[len] == 1;
	if (!--t->count[len] || (!link && !t->apart))
		set_lens(d);
}

void lpm_replaced(const struct shim_map_desc *d, u32 *head, u32 old, u32 at)
{
	u32 *link = chain_link(d, head, old);

	if (!link)
		return;
	WRITE_ONCE(node_at(d, at)->next, READ_ONCE(node_at(d, old)->next));
	__atomic_store_n(link, at, __ATOMIC_RELEASE);
}

void lpm_chains_clear(const struct shim_map_desc *d)
{
	struct trie *t = trie_of(d);
	u32 *heads = desc_at(d, d->bucket_off);

	t->entries = t->apart = t->nr_lens = 0;
	for (u32 len = 0; len <= lpm_max_prefix(d); len++)
		t->count[len] = 0;
	for (u32 i = 0; i < LPM_LATELY; i++)
		t->lately[i] = 0;
	for (u64 i = 0; i <= d->bucket_mask; i++)
		WRITE_ONCE(heads[i], 0);
	set_lens(d);
}
