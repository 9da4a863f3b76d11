/*
 * Reading an LPM trie without its lock: by the elements' chains if nothing changes meanwhile, else by the
 * trie. A walk through that counts if no node left the trie meanwhile, since only such a node is ever
 * written to while a reader may be at it. Order of iteration: more specific
 * prefixes first, as trie_get_next_key() (kernel/bpf/lpm_trie.c).
 */
#include "map_lpm.h"

enum { RESTARTS = 16 };

u64 lpm_load(const u8 *from, u32 left)
{
	u64 v = 0;
	u32 half, i = 0;

	if (left >= 8)
		return __builtin_bswap64(__atomic_load_n((const u64 *)from, __ATOMIC_RELAXED));
	if (left >= 4) {
		half = __atomic_load_n((const u32 *)from, __ATOMIC_RELAXED);
		v = (u64)__builtin_bswap32(half) << 32;
		i = 4;
	}
	for (; i < left; i++)
		v |= (u64)__atomic_load_n(&from[i], __ATOMIC_RELAXED) << (56 - 8 * i);
	return v;
}

u32 lpm_match_long(const struct shim_map_desc *d, const struct node *n, const struct prefix *key)
{
	u32 len = __atomic_load_n(&n->prefixlen, __ATOMIC_RELAXED), size = lpm_data_size(d);
	u32 limit = len < key->len ? len : key->len;

	for (u32 at = 0; at < size && at * 8 < limit; at += 8) {
		u64 differ = lpm_load(n->data + at, size - at) ^ lpm_load(key->data + at, size - at);

		if (differ) {
			u32 same = at * 8 + (u32)__builtin_clzll(differ);

			return same < limit ? same : limit;
		}
	}
	return limit;
}

bool lpm_same_long(const struct shim_map_desc *d, const struct node *n, const struct prefix *key,
		   u32 len)
{
	u32 size = lpm_data_size(d);

	for (u32 at = 0; at < size && at * 8 < len; at += 8) {
		u64 differ = lpm_load(n->data + at, size - at) ^ lpm_load(key->data + at, size - at);
		u32 left = len - at * 8;

		if (differ >> (left < 64 ? 64 - left : 0))
			return false;
	}
	return true;
}

u32 lpm_hash_long(const struct shim_map_desc *d, const struct prefix *key, u32 len)
{
	u32 size = lpm_data_size(d);
	u64 h = 0;

	for (u32 at = 0; at < size && at * 8 < len; at += 8) {
		u32 left = len - at * 8;

		h ^= lpm_mix(lpm_load(key->data + at, size - at), left < 64 ? left : 64);
		h = h << 32 | h >> 32;
	}
	return (u32)(lpm_mix(h, 64) >> 32) + len;
}

/* The most specific element that covers the key by the chains, 0: none. LPM_UNSURE. */
static inline u32 find_by_length(const struct shim_map_desc *d, const struct prefix *key)
{
	u64 lens = __atomic_load_n(&trie_of(d)->lens, __ATOMIC_RELAXED);
	u32 at = 0;

	if (lens == LPM_MANY)
		return LPM_UNSURE;
	for (; lens && !at; lens >>= 16) {
		u32 len = (u32)(lens & 0xffff) - 1;

		if (len <= key->len)
			at = lpm_exact(d, lpm_bucket(d, key, len), key, len);
	}
	return at;
}

/* The most specific element that covers the key, 0: none. */
static u32 find(const struct shim_map_desc *d, const struct prefix *key)
{
	u32 at = link_read(d, &trie_of(d)->root), found = 0, max = lpm_max_prefix(d);

	for (u32 n = 0; at && n <= max; n++) {
		struct node *node = node_at(d, at);
		u32 len = __atomic_load_n(&node->prefixlen, __ATOMIC_RELAXED);

		if (lpm_match(d, node, key) < len)
			break;
		if (!__atomic_load_n(&node->bare, __ATOMIC_RELAXED))
			found = at;
		if (len >= max)
			break;
		at = link_read(d, &node->child[bit_at(key, len)]);
	}
	return found;
}

/* First in the order of iteration of those below a node and itself. */
static u32 leftmost(const struct shim_map_desc *d, u32 at)
{
	u32 found = 0;

	for (u32 n = 0; at && n <= lpm_max_prefix(d); n++) {
		struct node *node = node_at(d, at);
		bool bare = __atomic_load_n(&node->bare, __ATOMIC_RELAXED);

		if (!bare)
			found = at;
		at = link_read(d, &node->child[0]);
		if (!at && !bare)
			at = link_read(d, &node->child[1]);
	}
	return found;
}

/* What comes after the key, first if it is not there; 0: nothing. On the way down to the key: what
 * comes after all that is below the node reached is `then`, or the first of what is below `below`. */
static u32 after(const struct shim_map_desc *d, const struct prefix *key)
{
	u32 at = link_read(d, &trie_of(d)->root), root = at, then = 0, below = 0;
	u32 max = lpm_max_prefix(d);

	for (u32 n = 0; at && n <= max; n++) {
		struct node *node = node_at(d, at);
		u32 len = __atomic_load_n(&node->prefixlen, __ATOMIC_RELAXED), side, other;
		bool bare = __atomic_load_n(&node->bare, __ATOMIC_RELAXED);

		if (lpm_match(d, node, key) != len)
			break;
		if (len == key->len && !bare)
			return below ? leftmost(d, below) : then;
		if (len == key->len || len >= max)
			break;
		side = bit_at(key, len);
		other = side ? 0 : link_read(d, &node->child[1]);
		if (other) {
			below = other;
		} else if (!bare) {
			then = at;
			below = 0;
		}
		at = link_read(d, &node->child[side]);
	}
	return leftmost(d, root);
}

/* What comes after an element, 0: nothing. LPM_UNSURE: it is none. */
static u32 after_element(const struct shim_map_desc *d, u32 at, const struct prefix *key)
{
	for (u32 n = 0; n <= lpm_max_prefix(d); n++) {
		u32 up = link_read(d, &node_at(d, at)->parent), other;
		struct node *parent = node_at(d, up);
		u32 len;

		if (!up)
			return 0;
		len = READ_ONCE(parent->prefixlen);
		if (len >= key->len)
			break;
		other = bit_at(key, len) ? 0 : link_read(d, &parent->child[1]);
		if (other)
			return leftmost(d, other);
		if (!READ_ONCE(parent->bare))
			return up;
		at = up;
	}
	return LPM_UNSURE;
}

/* Between these, nothing may have changed; false: it does so now. */
static bool quiet_begin(const struct shim_map_desc *d, u32 *turn)
{
	*turn = __atomic_load_n(&trie_of(d)->turn, __ATOMIC_ACQUIRE);
	return !(*turn & 1);
}

static bool quiet(const struct shim_map_desc *d, u32 turn)
{
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	return __atomic_load_n(&trie_of(d)->turn, __ATOMIC_RELAXED) == turn;
}

/* Between these, no node that was met may have left. */
static u32 read_begin(const struct shim_map_desc *d)
{
	return __atomic_load_n(&trie_of(d)->seq, __ATOMIC_ACQUIRE);
}

static bool read_ok(const struct shim_map_desc *d, u32 seq)
{
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	return __atomic_load_n(&trie_of(d)->seq, __ATOMIC_RELAXED) == seq;
}

void *lpm_lookup(const struct shim_map_desc *d, const void *key, struct shim_run *run)
{
	struct prefix k = prefix_of(d, key);
	u32 seq, at;

	if (k.len > lpm_max_prefix(d))
		return 0;
	if (quiet_begin(d, &seq)) {
		at = find_by_length(d, &k);
		if (at != LPM_UNSURE && quiet(d, seq))
			return at ? node_value(d, node_at(d, at)) : 0;
	}
	for (u32 i = 0; i < RESTARTS; i++) {
		seq = read_begin(d);
		at = find(d, &k);
		if (read_ok(d, seq))
			return at ? node_value(d, node_at(d, at)) : 0;
	}
	if (lpm_lock(d, run) < 0)
		return 0;
	at = find(d, &k);
	lpm_unlock(d, run);
	return at ? node_value(d, node_at(d, at)) : 0;
}

static inline long copy_value(const struct shim_map_desc *d, u32 at, void *value)
{
	if (at)
		copy_out(value, node_value(d, node_at(d, at)), d->value_size);
	return at ? 0 : -ENOENT;
}

long lpm_sys_lookup(const struct shim_map_desc *d, const void *key, void *value, u64 flags,
		    struct shim_run *run)
{
	struct prefix k = prefix_of(d, key);
	long err;
	u32 seq, at;

	if (flags)
		return -EINVAL;
	if (k.len > lpm_max_prefix(d))
		return -ENOENT;
	if (quiet_begin(d, &seq)) {
		at = find_by_length(d, &k);
		err = at != LPM_UNSURE ? copy_value(d, at, value) : -EAGAIN;
		if (err != -EAGAIN && quiet(d, seq))
			return err;
	}
	for (u32 i = 0; i < RESTARTS; i++) {
		seq = read_begin(d);
		err = copy_value(d, find(d, &k), value);
		if (read_ok(d, seq))
			return err;
	}
	err = lpm_lock(d, run);
	if (err < 0)
		return err;
	err = copy_value(d, find(d, &k), value);
	lpm_unlock(d, run);
	return err;
}

static long copy_next(const struct shim_map_desc *d, u32 at, void *next)
{
	struct node *node;

	if (!at)
		return -ENOENT;
	node = node_at(d, at);
	copy_out(next, &node->prefixlen, LPM_PREFIX);
	copy_out((u8 *)next + LPM_PREFIX, node->data, lpm_data_size(d));
	return 0;
}

static u32 find_next(const struct shim_map_desc *d, const struct prefix *key)
{
	bool first = !key || key->len > lpm_max_prefix(d);

	return first ? leftmost(d, link_read(d, &trie_of(d)->root)) : after(d, key);
}

/* Of a key that is there. */
static inline u32 find_next_by_length(const struct shim_map_desc *d, const struct prefix *key)
{
	u32 len = key->len, at = 0;

	if (len <= lpm_max_prefix(d))
		at = lpm_exact(d, lpm_bucket(d, key, len), key, len);
	return at && at != LPM_UNSURE ? after_element(d, at, key) : LPM_UNSURE;
}

long lpm_sys_next(const struct shim_map_desc *d, const void *key, void *next, struct shim_run *run)
{
	struct prefix k = { 0, 0, 0 };
	long err;
	u32 seq, at;

	if (key)
		k = prefix_of(d, key);
	if (key && quiet_begin(d, &seq)) {
		at = find_next_by_length(d, &k);
		err = at != LPM_UNSURE ? copy_next(d, at, next) : -EAGAIN;
		if (err != -EAGAIN && quiet(d, seq))
			return err;
	}
	for (u32 i = 0; i < RESTARTS; i++) {
		seq = read_begin(d);
		err = copy_next(d, find_next(d, key ? &k : 0), next);
		if (read_ok(d, seq))
			return err;
	}
	err = lpm_lock(d, run);
	if (err < 0)
		return err;
	err = copy_next(d, find_next(d, key ? &k : 0), next);
	lpm_unlock(d, run);
	return err;
}
