/*
 * BPF_MAP_TYPE_LPM_TRIE in shared memory: a binary trie of nodes by index, two a possible element. And
 * chains by the hash of the whole prefix (map_lpm_chain.c), by which an element is found at once: the way
 * through the trie is one of as many loads as it is deep, each of which waits for the one before.
 *
 * One lock for all changes, as in the kernel. Each change is one store into the trie, so a dead owner
 * leaves a whole trie; which nodes are free, the chains and how many elements there are is then found
 * again by looking every node up. An element that is updated gets another node: its readers keep the value
 * that they found. Nodes come back into use as late as possible. Source: kernel/bpf/lpm_trie.c.
 */
#include "map_lpm.h"

enum {
	CREATE_FLAGS = BPF_F_NO_PREALLOC | BPF_F_NUMA_NODE | BPF_F_RDONLY | BPF_F_WRONLY |
		       BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG
};
enum { MAX_BUCKETS = 1 << 16 };
enum { DATA_MAX = 256, VALUE_MAX = (1 << 22) - DATA_MAX - 24 }; /* less the kernel's lpm_trie_node */
enum { NODES_MAX = 0xfffffff0u };
enum { CLIMB = 4 };

static long layout(struct shim_map_hdr *hdr)
{
	u64 nodes = 2ull * hdr->max_entries, lens, size;

	if (!hdr->max_entries || !(hdr->map_flags & BPF_F_NO_PREALLOC) ||
	    hdr->map_flags & ~(u32)CREATE_FLAGS)
		return -EINVAL;
	if (hdr->key_size <= LPM_PREFIX || hdr->key_size > LPM_PREFIX + DATA_MAX || !hdr->value_size ||
	    hdr->value_size > VALUE_MAX)
		return -EINVAL;
	hdr->stride = (u32)(sizeof(struct node) + round_up(hdr->key_size - LPM_PREFIX, 8) +
			    round_up(hdr->value_size, 8));
	hdr->nr_elems = nodes < NODES_MAX ? (u32)nodes : NODES_MAX;
	hdr->nr_buckets = 1;
	while (hdr->nr_buckets < hdr->max_entries && hdr->nr_buckets < MAX_BUCKETS)
		hdr->nr_buckets *= 2;
	hdr->mmap_size = 0;
	hdr->state_off = 0;
	lens = (hdr->key_size - LPM_PREFIX) * 8 + 1;
	hdr->bucket_off = round_up(sizeof(struct trie) + lens * sizeof(u32), 64);
	hdr->elem_off = round_up(hdr->bucket_off + hdr->nr_buckets * sizeof(u32), 64);
	size = hdr->elem_off + (u64)hdr->nr_elems * hdr->stride;
	hdr->file_size = round_up(size, SHIM_PAGE) + SHIM_PAGE;
	return size >> 46 ? -ENOMEM : 0;
}

static long check(const struct shim_map_hdr *hdr)
{
	struct shim_map_hdr want = *hdr;

	if (layout(&want) || want.stride != hdr->stride || want.nr_elems != hdr->nr_elems ||
	    want.file_size != hdr->file_size || want.elem_off != hdr->elem_off ||
	    want.nr_buckets != hdr->nr_buckets || want.bucket_off != hdr->bucket_off ||
	    hdr->state_off || hdr->mmap_size)
		return -EINVAL;
	return 0;
}

/* where nodes come from */

/* Out of the trie already. */
static void give(const struct shim_map_desc *d, u32 at)
{
	struct trie *t = trie_of(d);

	if (!at)
		return;
	__atomic_store_n(&t->seq, t->seq + 1, __ATOMIC_RELEASE);
	__atomic_store_n(&node_at(d, at)->bare, LPM_GONE, __ATOMIC_RELEASE);
	WRITE_ONCE(node_at(d, at)->next, 0);
	if (t->free_last && t->free_last <= d->nr_elems)
		WRITE_ONCE(node_at(d, t->free_last)->next, at);
	else
		t->free_first = at;
	t->free_last = at;
}

/* Index + 1, or -ENOMEM. */
static long take(const struct shim_map_desc *d)
{
	struct trie *t = trie_of(d);
	u32 at = t->free_first;
	long err = 0;

	if (at && at <= d->nr_elems) {
		t->free_first = node_at(d, at)->next;
		if (!t->free_first)
			t->free_last = 0;
		return at;
	}
	if (t->fresh >= d->nr_elems)
		return -ENOMEM;
	if (t->fresh >= t->grown)
		err = grow(d, t->fresh, &t->grown, 0);
	return err ? err : ++t->fresh;
}

static void publish(u32 *link, u32 at)
{
	__atomic_store_n(link, at, __ATOMIC_RELEASE);
}

/* In the trie. Its parent is written down. */
static bool linked(const struct shim_map_desc *d, u32 at, const struct prefix *own)
{
	u32 parent = 0, other = link_read(d, &trie_of(d)->root), max = lpm_max_prefix(d);

	if (own->len > max)
		return false;
	for (u32 n = 0; other && other != at && n <= max; n++) {
		struct node *o = node_at(d, other);

		u32 len = READ_ONCE(o->prefixlen);

		if (len >= own->len)
			return false;
		parent = other;
		other = link_read(d, &o->child[bit_at(own, len)]);
	}
	if (other == at)
		publish(&node_at(d, at)->parent, parent);
	return other == at;
}

static void turn_begin(struct trie *t)
{
	__atomic_store_n(&t->turn, t->turn | 1, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_RELEASE);
}

static void turn_end(struct trie *t)
{
	__atomic_store_n(&t->turn, t->turn + 1, __ATOMIC_RELEASE);
}

static void rebuild(const struct shim_map_desc *d)
{
	struct trie *t = trie_of(d);
	u32 used = t->fresh < d->nr_elems ? t->fresh : d->nr_elems;

	turn_begin(t);
	t->free_first = t->free_last = 0;
	lpm_chains_clear(d);
	for (u32 at = 1; at <= used; at++) {
		struct prefix own = prefix_of_node(d, node_at(d, at));

		if (!linked(d, at, &own))
			give(d, at);
		else if (!node_at(d, at)->bare)
			lpm_added(d, lpm_bucket(d, &own, own.len), own.len, at);
	}
	turn_end(t);
}

long lpm_lock(const struct shim_map_desc *d, struct shim_run *run)
{
	long ret = run_lock(&trie_of(d)->lock, run);

	if (ret > 0)
		rebuild(d);
	return ret;
}

void lpm_unlock(const struct shim_map_desc *d, struct shim_run *run)
{
	run_unlock(&trie_of(d)->lock, run);
}

/* Where a prefix is, or would be put. */
struct place {
	u32 *link; /* to the node, or to nothing */
	u32 parent; /* index + 1 of the node that has link, 0: it is the root's */
	u32 at; /* of *link */
	u32 match; /* bits that the node and the prefix have in common */
	u32 *head; /* of the prefix's chain */
};

/* Where the node is noted below which a prefix like this was put last. */
static u32 *lately(const struct shim_map_desc *d, const struct prefix *key)
{
	struct trie *t = trie_of(d);
	u32 root = link_read(d, &t->root), len = root ? READ_ONCE(node_at(d, root)->prefixlen) : 0;

	return &t->lately[key->word << (len < 56 ? len : 56) >> 56];
}

/* A link on the way to the prefix's place. */
static void begin(const struct shim_map_desc *d, const struct prefix *key, struct place *p)
{
	u32 at = link_read(d, lately(d, key));

	p->link = &trie_of(d)->root;
	p->parent = 0;
	for (u32 n = 0; at && n < CLIMB; n++) {
		struct node *node = node_at(d, at);
		u32 len = READ_ONCE(node->prefixlen);

		if (READ_ONCE(node->bare) == LPM_GONE)
			break;
		if (len < key->len && lpm_same(d, node, key, len)) {
			p->link = &node->child[bit_at(key, len)];
			p->parent = at;
			break;
		}
		at = link_read(d, &node->parent);
	}
}

static void descend(const struct shim_map_desc *d, const struct prefix *key, struct place *p)
{
	begin(d, key, p);
	p->at = link_read(d, p->link);
	for (u32 n = 0; p->at && n <= lpm_max_prefix(d); n++) {
		struct node *node = node_at(d, p->at);
		u32 len = READ_ONCE(node->prefixlen);

		p->match = lpm_match(d, node, key);
		if (p->match != len || len == key->len)
			break;
		p->parent = p->at;
		p->link = &node->child[bit_at(key, len)];
		p->at = link_read(d, p->link);
	}
}

/* The link that leads to a node with the first bits of the key; NULL: somebody has spoilt the map. */
static u32 *link_to(const struct shim_map_desc *d, const struct prefix *key, u32 at)
{
	u32 up = link_read(d, &node_at(d, at)->parent), len, *link = &trie_of(d)->root;

	if (up) {
		len = READ_ONCE(node_at(d, up)->prefixlen);
		if (len >= key->len)
			return 0;
		link = &node_at(d, up)->child[bit_at(key, len)];
	}
	return READ_ONCE(*link) == at ? link : 0;
}

/* What is in no chain may be in the trie if others are, or bare, which counts if it is to be put. */
static struct place locate(const struct shim_map_desc *d, const struct prefix *key, bool puts)
{
	u32 *head = lpm_bucket(d, key, key->len);
	struct place p = { 0, 0, lpm_exact(d, head, key, key->len), key->len, head };

	if (p.at && p.at != LPM_UNSURE) {
		p.link = link_to(d, key, p.at);
		p.parent = link_read(d, &node_at(d, p.at)->parent);
	}
	if (!p.link && (p.at || puts || trie_of(d)->apart))
		descend(d, key, &p);
	return p;
}

/* trie_check_add_elem() */
static long may_add(const struct shim_map_desc *d, u64 flags)
{
	if (flags == BPF_EXIST)
		return -ENOENT;
	return trie_of(d)->entries >= d->max_entries ? -ENOSPC : 0;
}

/* A node that hangs nowhere yet. */
static long make(const struct shim_map_desc *d, u32 len, const u8 *data, const void *value, u32 parent)
{
	long at = take(d);
	struct node *node;

	if (at < 0)
		return at;
	node = node_at(d, (u32)at);
	publish(&node->child[0], 0);
	publish(&node->child[1], 0);
	publish(&node->parent, parent);
	__atomic_store_n(&node->prefixlen, len, __ATOMIC_RELAXED);
	__atomic_store_n(&node->bare, !value, __ATOMIC_RELAXED);
	copy_words(node->data, data, lpm_data_size(d));
	if (value)
		copy_words(node_value(d, node), value, d->value_size);
	return at;
}

/* What hangs at a node has it as parent, too. */
static void hang(const struct shim_map_desc *d, u32 at, u32 side, u32 child)
{
	publish(&node_at(d, at)->child[side], child);
	if (child && child <= d->nr_elems)
		publish(&node_at(d, child)->parent, at);
}

/* The new node in the place of an old one of the same prefix. */
static void replace(const struct shim_map_desc *d, const struct place *p, u32 at)
{
	struct node *old = node_at(d, p->at);

	hang(d, at, 0, old->child[0]);
	hang(d, at, 1, old->child[1]);
	publish(p->link, at);
}

/* The two below a bare node of what they have in common. */
static long fork_at(const struct shim_map_desc *d, const struct place *p, const struct prefix *key,
		    u32 at)
{
	long bare = make(d, p->match, node_at(d, p->at)->data, 0, p->parent);
	u32 side = bit_at(key, p->match);

	if (bare < 0)
		return bare;
	hang(d, (u32)bare, side, at);
	hang(d, (u32)bare, !side, p->at);
	publish(p->link, (u32)bare);
	return 0;
}

/* Where an element with this prefix is, nothing is added. */
static long put(const struct shim_map_desc *d, const struct prefix *key, const void *value, u64 flags)
{
	struct place p = locate(d, key, true);
	struct node *old = p.at ? node_at(d, p.at) : 0;
	bool same = old && old->prefixlen == p.match && p.match == key->len, adds = !same || old->bare;
	long err = 0, at;

	if (!adds && flags == BPF_NOEXIST)
		return -EEXIST;
	if (adds)
		err = may_add(d, flags);
	if (err)
		return err;
	at = make(d, key->len, key->data, value, p.parent);
	if (at < 0)
		return at;
	if (same) {
		replace(d, &p, (u32)at);
	} else if (!old) {
		publish(p.link, (u32)at);
	} else if (p.match == key->len) { /* it covers what is there */
		hang(d, (u32)at, bit_of(old->data, p.match), p.at);
		publish(p.link, (u32)at);
	} else {
		err = fork_at(d, &p, key, (u32)at);
	}
	if (err) {
		give(d, (u32)at);
		return err;
	}
	if (adds)
		lpm_added(d, p.head, key->len, (u32)at);
	if (adds && !same)
		*lately(d, key) = p.parent;
	else
		lpm_replaced(d, p.head, p.at, (u32)at);
	if (same)
		give(d, p.at);
	return 0;
}

static long update(const struct shim_map_desc *d, const void *key, const void *value, u64 flags,
		   struct shim_run *run)
{
	struct prefix k = prefix_of(d, key);
	u8 data[DATA_MAX];
	long err;

	if (flags > BPF_EXIST || k.len > lpm_max_prefix(d))
		return -EINVAL;
	/* bits that changed on the way would put the node where nobody finds it */
	memcpy(data, k.data, lpm_data_size(d));
	k.data = data;
	err = lpm_lock(d, run);
	if (err < 0)
		return err;
	turn_begin(trie_of(d));
	err = put(d, &k, value, flags);
	turn_end(trie_of(d));
	lpm_unlock(d, run);
	return err;
}

/* With two children the node stays, bare. Its parent goes too if that is bare and is left with one. */
static long cut(const struct shim_map_desc *d, const struct prefix *key)
{
	struct place p = locate(d, key, false);
	struct node *node = p.at ? node_at(d, p.at) : 0;
	struct node *parent = p.parent ? node_at(d, p.parent) : 0;
	u32 *link = p.link, child, gone = 0;

	if (!node || node->prefixlen != key->len || p.match != key->len || node->bare)
		return -ENOENT;
	if (node->child[0] && node->child[1]) {
		__atomic_store_n(&node->bare, 1, __ATOMIC_RELEASE);
		lpm_removed(d, p.head, key->len, p.at);
		return 0;
	}
	child = node->child[0] ? node->child[0] : node->child[1];
	if (parent && parent->bare && !child) {
		link = link_to(d, key, p.parent);
		child = parent->child[parent->child[0] == p.at];
		gone = p.parent;
		p.parent = parent->parent;
	}
	if (!link || child > d->nr_elems)
		return -ENOENT; /* somebody has spoilt the map */
	publish(link, child);
	if (child)
		publish(&node_at(d, child)->parent, p.parent);
	lpm_removed(d, p.head, key->len, p.at);
	give(d, gone);
	give(d, p.at);
	return 0;
}

static long del(const struct shim_map_desc *d, const void *key, struct shim_run *run)
{
	struct prefix k = prefix_of(d, key);
	long err;

	if (k.len > lpm_max_prefix(d))
		return -EINVAL;
	err = lpm_lock(d, run);
	if (err < 0)
		return err;
	turn_begin(trie_of(d));
	err = cut(d, &k);
	turn_end(trie_of(d));
	lpm_unlock(d, run);
	return err;
}

const struct map_ops lpm_ops = {
	.layout = layout,
	.check = check,
	.lookup = lpm_lookup,
	.update = update,
	.del = del,
	.sys_lookup = lpm_sys_lookup,
	.sys_update = update,
	.sys_next = lpm_sys_next,
	.sys_batch = sys_batch,
};
