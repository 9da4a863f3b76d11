/*
 * BPF_MAP_TYPE_LPM_TRIE in shared memory: a binary trie of nodes by index, two a possible element.
 *
 * One lock for all changes, as in the kernel. Each change is one store into the trie, so a dead owner
 * leaves a whole trie; which nodes are free and how many elements there are is then found again by
 * looking every node up. An element that is updated gets another node: its readers keep the value
 * that they found. Nodes come back into use as late as possible. Source: kernel/bpf/lpm_trie.c.
 */
#include "map_lpm.h"

enum {
	CREATE_FLAGS = BPF_F_NO_PREALLOC | BPF_F_NUMA_NODE | BPF_F_RDONLY | BPF_F_WRONLY |
		       BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG
};
enum { DATA_MAX = 256, VALUE_MAX = (1 << 22) - DATA_MAX - 24 }; /* less the kernel's lpm_trie_node */
enum { NODES_MAX = 0xfffffff0u };

static long layout(struct shim_map_hdr *hdr)
{
	u64 nodes = 2ull * hdr->max_entries, size;

	if (!hdr->max_entries || !(hdr->map_flags & BPF_F_NO_PREALLOC) ||
	    hdr->map_flags & ~(u32)CREATE_FLAGS)
		return -EINVAL;
	if (hdr->key_size <= LPM_PREFIX || hdr->key_size > LPM_PREFIX + DATA_MAX || !hdr->value_size ||
	    hdr->value_size > VALUE_MAX)
		return -EINVAL;
	hdr->stride = (u32)(sizeof(struct node) + round_up(hdr->key_size - LPM_PREFIX, 8) +
			    round_up(hdr->value_size, 8));
	hdr->nr_elems = nodes < NODES_MAX ? (u32)nodes : NODES_MAX;
	hdr->nr_buckets = 0;
	hdr->mmap_size = 0;
	hdr->state_off = 0;
	hdr->bucket_off = 0;
	hdr->elem_off = 64;
	size = hdr->elem_off + (u64)hdr->nr_elems * hdr->stride;
	hdr->file_size = round_up(size, SHIM_PAGE) + SHIM_PAGE;
	return size >> 46 ? -ENOMEM : 0;
}

static long check(const struct shim_map_hdr *hdr)
{
	struct shim_map_hdr want = *hdr;

	if (layout(&want) || want.stride != hdr->stride || want.nr_elems != hdr->nr_elems ||
	    want.file_size != hdr->file_size || want.elem_off != hdr->elem_off || hdr->nr_buckets ||
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
	node_at(d, at)->next_free = 0;
	if (t->free_last && t->free_last <= d->nr_elems)
		node_at(d, t->free_last)->next_free = at;
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
		t->free_first = node_at(d, at)->next_free;
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

static bool linked(const struct shim_map_desc *d, u32 at)
{
	struct node *node = node_at(d, at);
	struct prefix own = { node->prefixlen, node->data, lpm_load(node->data, lpm_data_size(d)) };
	u32 other = link_read(d, &trie_of(d)->root), max = lpm_max_prefix(d);

	if (own.len > max)
		return false;
	for (u32 n = 0; other && other != at && n <= max; n++) {
		struct node *o = node_at(d, other);

		if (o->prefixlen >= own.len)
			return false;
		other = link_read(d, &o->child[bit_at(&own, o->prefixlen)]);
	}
	return other == at;
}

static void rebuild(const struct shim_map_desc *d)
{
	struct trie *t = trie_of(d);
	u32 used = t->fresh < d->nr_elems ? t->fresh : d->nr_elems;

	t->free_first = t->free_last = t->entries = 0;
	for (u32 at = 1; at <= used; at++) {
		if (!linked(d, at))
			give(d, at);
		else if (!node_at(d, at)->bare)
			t->entries++;
	}
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
	u32 *parent_link; /* to the node that has link */
	u32 parent; /* index + 1, 0: link is the root's */
	u32 at; /* of *link */
	u32 match; /* bits that the node and the prefix have in common */
};

static struct place descend(const struct shim_map_desc *d, const struct prefix *key)
{
	struct trie *t = trie_of(d);
	struct place p = { &t->root, &t->root, 0, link_read(d, &t->root), 0 };

	for (u32 n = 0; p.at && n <= lpm_max_prefix(d); n++) {
		struct node *node = node_at(d, p.at);

		p.match = lpm_match(d, node, key);
		if (p.match != node->prefixlen || node->prefixlen == key->len)
			break;
		p.parent = p.at;
		p.parent_link = p.link;
		p.link = &node->child[bit_at(key, node->prefixlen)];
		p.at = link_read(d, p.link);
	}
	return p;
}

/* trie_check_add_elem() */
static long may_add(const struct shim_map_desc *d, u64 flags)
{
	if (flags == BPF_EXIST)
		return -ENOENT;
	return trie_of(d)->entries >= d->max_entries ? -ENOSPC : 0;
}

static void publish(u32 *link, u32 at)
{
	__atomic_store_n(link, at, __ATOMIC_RELEASE);
}

/* A node that hangs nowhere yet. */
static long make(const struct shim_map_desc *d, u32 len, const u8 *data, const void *value)
{
	long at = take(d);
	struct node *node;

	if (at < 0)
		return at;
	node = node_at(d, (u32)at);
	publish(&node->child[0], 0);
	publish(&node->child[1], 0);
	__atomic_store_n(&node->prefixlen, len, __ATOMIC_RELAXED);
	__atomic_store_n(&node->bare, !value, __ATOMIC_RELAXED);
	copy_words(node->data, data, lpm_data_size(d));
	if (value)
		copy_words(node_value(d, node), value, d->value_size);
	return at;
}

/* The new node in the place of an old one of the same prefix. */
static void replace(const struct shim_map_desc *d, const struct place *p, u32 at)
{
	struct node *old = node_at(d, p->at), *node = node_at(d, at);

	publish(&node->child[0], old->child[0]);
	publish(&node->child[1], old->child[1]);
	publish(p->link, at);
	give(d, p->at);
}

/* The two below a bare node of what they have in common. */
static long fork_at(const struct shim_map_desc *d, const struct place *p, const struct prefix *key,
		    u32 at)
{
	long bare = make(d, p->match, node_at(d, p->at)->data, 0);
	u32 side = bit_at(key, p->match);
	struct node *node;

	if (bare < 0)
		return bare;
	node = node_at(d, (u32)bare);
	publish(&node->child[side], at);
	publish(&node->child[!side], p->at);
	publish(p->link, (u32)bare);
	return 0;
}

static long put(const struct shim_map_desc *d, const struct prefix *key, const void *value, u64 flags)
{
	struct place p = descend(d, key);
	struct node *old = p.at ? node_at(d, p.at) : 0;
	bool same = old && old->prefixlen == p.match && p.match == key->len, adds = !same || old->bare;
	long err = 0, at;

	if (!adds && flags == BPF_NOEXIST)
		return -EEXIST;
	if (adds)
		err = may_add(d, flags);
	if (err)
		return err;
	at = make(d, key->len, key->data, value);
	if (at < 0)
		return at;
	if (same) {
		replace(d, &p, (u32)at);
	} else if (!old) {
		publish(p.link, (u32)at);
	} else if (p.match == key->len) { /* it covers what is there */
		publish(&node_at(d, (u32)at)->child[bit_of(old->data, p.match)], p.at);
		publish(p.link, (u32)at);
	} else {
		err = fork_at(d, &p, key, (u32)at);
	}
	if (err)
		give(d, (u32)at);
	else if (adds)
		trie_of(d)->entries++;
	return err;
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
	err = put(d, &k, value, flags);
	lpm_unlock(d, run);
	return err;
}

/* With two children the node stays, bare. Its parent goes too if that is bare and is left with one. */
static long cut(const struct shim_map_desc *d, const struct prefix *key)
{
	struct place p = descend(d, key);
	struct node *node = p.at ? node_at(d, p.at) : 0;
	struct node *parent = p.parent ? node_at(d, p.parent) : 0;

	if (!node || node->prefixlen != key->len || p.match != key->len || node->bare)
		return -ENOENT;
	trie_of(d)->entries--;
	if (node->child[0] && node->child[1]) {
		__atomic_store_n(&node->bare, 1, __ATOMIC_RELEASE);
		return 0;
	}
	if (parent && parent->bare && !node->child[0] && !node->child[1]) {
		publish(p.parent_link, parent->child[parent->child[0] == p.at]);
		give(d, p.parent);
	} else {
		publish(p.link, node->child[0] ? node->child[0] : node->child[1]);
	}
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
	err = cut(d, &k);
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
