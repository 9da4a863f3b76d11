/*
 * The lists of an LRU map and how elements age on them, as kernel/bpf/bpf_lru_list.c has it: the order
 * in which elements are evicted is the kernel's.
 *
 * A hit sets a bit in its element and touches no list. Who needs a free element looks through some of
 * the elements: one that was used loses the bit and gets to the front of the active list; the tail
 * of an active list that has grown longer than the inactive one comes over unless it was used; what is
 * at the end of the inactive list and was not used goes.
 *
 * A list changes under its lock. A death in between leaves links that lead nowhere sure; 'where' and
 * 'transit' (map_hash_free.c) of each element say what it was, so the next owner puts all of them on new
 * lists, the active ones among them on the active list.
 */
#include "map_lru_cpu.h"

enum { TARGET = 128, SCANS = 128, OWN_SCANS = 4, LOOK = 8 };

static u32 target(u32 elems, u32 cpus)
{
	u32 share = elems / cpus / 2;

	return share < 1 ? 1 : share > TARGET ? TARGET : share;
}

static u64 cpu_size(u32 ready, u32 map_flags)
{
	u32 words = map_flags & BPF_F_NO_COMMON_LRU ? 0 : 3 * lru_room(ready);

	return round_up(sizeof(struct lru_cpu) + words * 4ULL, 64);
}

static u32 heads(u32 cpus, u32 map_flags)
{
	return map_flags & BPF_F_NO_COMMON_LRU ? cpus * SET : FREE;
}

u64 lru_state_size(u32 elems, u32 cpus, u32 map_flags)
{
	return sizeof(struct lru_state) + cpus * cpu_size(target(elems, cpus), map_flags);
}

u64 lru_nodes_size(u32 elems, u32 cpus, u32 map_flags)
{
	return round_up(((u64)elems + heads(cpus, map_flags)) * sizeof(struct lru_node), 64);
}

void lru_describe(struct shim_map_desc *d)
{
	d->lru_target = target(d->nr_elems, d->nr_cpus);
	d->lru_nodes = d->elem_off - lru_nodes_size(d->nr_elems, d->nr_cpus, d->map_flags);
	d->lru_cpu_size = (u32)cpu_size(d->lru_target, d->map_flags);
}

/* one element */

void lru_link(struct lru *l, u32 index, u32 list)
{
	struct lru_node *n = node_at(l, index), *head = node_at(l, l->nr + list);

	n->list = list;
	n->next = head->next;
	n->prev = l->nr + list;
	node_at(l, head->next)->prev = index;
	head->next = index;
	head->list++;
}

void lru_unlink(struct lru *l, u32 index)
{
	struct lru_node *n = node_at(l, index);
	u32 *turn = turn_of(l);

	if (*turn == index)
		*turn = n->prev;
	node_at(l, n->prev)->next = n->next;
	node_at(l, n->next)->prev = n->prev;
	node_at(l, l->nr + n->list)->list--;
	n->list = NOWHERE;
}

void lru_move(struct lru *l, u32 index, u32 list)
{
	struct elem *e = elem_at(l->d, index);

	lru_unlink(l, index);
	lru_link(l, index, list);
	if (READ_ONCE(e->ref))
		WRITE_ONCE(e->ref, 0);
}

/* Of an element in this run's hand, or in its dead owner's. */
static void set_free(struct lru *l, u32 index, bool ready)
{
	if (!own_lists(l->d)) {
		common_free(l, index, ready);
		return;
	}
	lru_move(l, index, l->set + FREE);
	__atomic_store_n(&elem_at(l->d, index)->transit, ELEM_FREE, __ATOMIC_RELEASE);
}

/* Who is in this process is not dead. */
static bool alive(const struct lru *l, u32 owner)
{
	return !((owner ^ l->run->owner) >> SHIM_OWNER_GEN_SHIFT);
}

static __attribute__((noinline)) bool unlink(struct lru *l, struct elem *e, u32 index)
{
	struct bucket *b = bucket_of(l->d, READ_ONCE(e->hash));
	bool got;

	if (run_lock(&b->lock, l->run) < 0)
		return false;
	/* it may have gone, and come back into another chain */
	got = b == bucket_of(l->d, READ_ONCE(e->hash)) && hash_unlink(l->d, index, l->run);
	run_unlock(&b->lock, l->run);
	return got;
}

bool lru_evict(struct lru *l, u32 index)
{
	struct elem *e = elem_at(l->d, index);
	u32 owner = __atomic_load_n(&e->transit, __ATOMIC_ACQUIRE);

	if (owner == ELEM_FREE || (owner && alive(l, owner)))
		return false;
	if (owner && hash_settle(l->d, index, l->run))
		return true;
	return !__atomic_load_n(&e->transit, __ATOMIC_ACQUIRE) && unlink(l, e, index);
}

/* Of an element that is in a chain, as a rule, and one of the first two there. */
static inline bool evict(struct lru *l, struct elem *e, u32 index)
{
	const u32 owner = l->run->owner, nr = l->nr;
	struct bucket *b = bucket_of(l->d, READ_ONCE(e->hash));
	u32 *link = &b->head, at;

	if (__builtin_expect(__atomic_load_n(&e->transit, __ATOMIC_ACQUIRE), 0))
		return lru_evict(l, index);
	if (!inner_lock(&b->lock, owner))
		return unlink(l, e, index);
	at = READ_ONCE(*link) - 1;
	if (at != index && at < nr) {
		link = &elem_at(l->d, at)->next;
		at = READ_ONCE(*link) - 1;
	}
	if (at == index) {
		__atomic_store_n(&e->transit, owner, __ATOMIC_RELEASE);
		__atomic_store_n(link, READ_ONCE(e->next), __ATOMIC_RELEASE);
	}
	inner_unlock(&b->lock, owner);
	return at == index || unlink(l, e, index);
}

/* many */

/* Nodes that a look through a list takes in. */
static u32 scans(const struct lru *l)
{
	return own_lists(l->d) ? OWN_SCANS : SCANS;
}

/* The elements that can be on this CPU's lists. */
static u32 share(const struct lru *l, u32 *first)
{
	u32 each = own_lists(l->d) ? l->nr / l->d->nr_cpus : l->nr;

	*first = own_lists(l->d) ? l->cpu * each : 0;
	return each;
}

/* The nodes of a list from last to first, which is newer, to the front of a list, in their order. */
static void splice(struct lru *l, u32 from, u32 first, u32 last, u32 count, u32 to)
{
	struct lru_node *f = node_at(l, first), *t = node_at(l, last), *head = node_at(l, l->nr + to);

	node_at(l, f->prev)->next = t->next;
	node_at(l, t->next)->prev = f->prev;
	node_at(l, l->nr + from)->list -= count;
	t->next = head->next;
	f->prev = l->nr + to;
	node_at(l, head->next)->prev = last;
	head->next = first;
	head->list += count;
}

/* From the oldest on, those with one way to go at a time. */
static void rotate_active(struct lru *l)
{
	const u32 active = l->set + ACTIVE, end = newest(l, active), nr = l->nr, most = scans(l);
	u32 i = oldest(l, active), n = 0;

	while (n < most && i < nr) {
		u32 last = i, first = i, count = 0, next = i;
		bool was = used(l, i);
		u32 to = was ? active : l->set + INACTIVE;

		do {
			first = next;
			node_at(l, first)->list = to;
			if (was)
				WRITE_ONCE(elem_at(l->d, first)->ref, 0);
			count++;
			next = newer(l, first);
		} while (++n < most && first != end && next < nr && used(l, next) == was);
		splice(l, active, first, last, count, to);
		if (first == end)
			break;
		i = next;
	}
}

/* Goes on where it stopped the last time, once round at most. */
static void rotate_inactive(struct lru *l)
{
	const u32 head = l->nr + l->set + INACTIVE, nr = l->nr, most = scans(l);
	u32 *turn = turn_of(l), at = *turn, next = head, end;

	end = node_at(l, at)->next;
	if (end == head)
		end = node_at(l, head)->next;
	for (u32 n = 0; n < most; n++, at = next) {
		if (at == head)
			at = node_at(l, head)->prev;
		if (at >= nr)
			break; /* none is left */
		next = l->node[at].prev;
		if (used(l, at))
			lru_move(l, at, l->set + ACTIVE);
		if (at == end)
			break;
	}
	*turn = next;
}

void lru_rotate(struct lru *l)
{
	struct lru_node *first = node_at(l, l->nr + l->set);

	if (first[INACTIVE].list < first[ACTIVE].list)
		rotate_active(l);
	if (newest(l, l->set + INACTIVE) < l->nr)
		rotate_inactive(l);
}

/* In somebody's hand, and the locks held here are all that its 'where' wants. */
static bool ours(const struct lru *l, u32 index)
{
	u32 is, owner = READ_ONCE(elem_at(l->d, index)->transit);

	if (!owner || owner == ELEM_FREE)
		return false;
	is = where(l, index);
	return is == LISTED || is == HELD || is >> CPU_SHIFT == (PENDING >> CPU_SHIFT | l->cpu);
}

void lru_reclaim(struct lru *l, u32 want)
{
	u32 most = want > LOOK ? want : LOOK, first, count = share(l, &first);
	u32 *hand = own_lists(l->d) ? &l->mine->hand : &l->state->hand;

	for (u32 n = 0; n < most && n < count; n++) {
		u32 at = *hand < count ? *hand : 0, i = first + at;

		*hand = at + 1;
		if (ours(l, i) && hash_settle(l->d, i, l->run))
			set_free(l, i, true);
	}
}

/* Neighbours on the inactive list, from the oldest on, that leave it at one go: until then it still has
 * them. */
struct leaving {
	u32 older; /* node next to the oldest of them */
	u32 count;
	bool turn; /* the list is to be looked through next at one of them */
};

/* newer_node: the one next to the newest of them. */
static void cut(const struct lru *l, struct leaving *r, u32 newer_node)
{
	if (!r->count)
		return;
	node_at(l, r->older)->prev = newer_node;
	node_at(l, newer_node)->next = r->older;
	node_at(l, l->nr + INACTIVE)->list -= r->count;
	if (r->turn)
		l->state->turn = newer_node;
	*r = (struct leaving){ 0, 0, false };
}

/* Where the CPUs share the lists. */
static u32 shrink_common(struct lru *l, u32 want)
{
	struct leaving run = { 0, 0, false };
	const u32 nr = l->nr;
	u32 i = oldest(l, INACTIVE), got = 0, next;

	for (u32 n = 0; n < SCANS && i < nr && got < want; n++, i = next) {
		struct lru_node *node = &l->node[i];
		struct elem *e = elem_at(l->d, i);
		bool listed = READ_ONCE(node->where) == LISTED; /* else a CPU has taken it just now */

		next = node->prev;
		if (next < nr)
			__builtin_prefetch(bucket_of(l->d, READ_ONCE(elem_at(l->d, next)->hash)), 1);
		if (listed && !READ_ONCE(e->ref) && evict(l, e, i)) {
			if (!run.count++)
				run.older = node->next;
			run.turn |= l->state->turn == i;
			node->list = NOWHERE;
			common_free_ready(l, i);
			got++;
			continue;
		}
		cut(l, &run, i);
		if (listed && READ_ONCE(e->ref))
			lru_move(l, i, ACTIVE);
	}
	cut(l, &run, i);
	return got;
}

static u32 shrink_own(struct lru *l, u32 want)
{
	u32 i = oldest(l, l->set + INACTIVE), got = 0, next;

	for (u32 n = 0; n < OWN_SCANS && i < l->nr && got < want; n++, i = next) {
		next = newer(l, i);
		if (used(l, i)) {
			lru_move(l, i, l->set + ACTIVE);
		} else if (lru_evict(l, i)) {
			set_free(l, i, true);
			got++;
		}
	}
	return got;
}

void lru_shrink(struct lru *l, u32 want)
{
	u32 from = l->set + INACTIVE, i;

	if (own_lists(l->d) ? shrink_own(l, want) : shrink_common(l, want))
		return;
	if (newest(l, from) >= l->nr)
		from = l->set + ACTIVE;
	i = oldest(l, from);
	for (u32 n = 0; n < l->nr && i < l->nr; n++, i = newer(l, i))
		if (where(l, i) == LISTED && lru_evict(l, i)) {
			set_free(l, i, true);
			return;
		}
}

/* all */

static void empty(struct lru *l)
{
	for (u32 i = l->nr + l->set; i < l->nr + l->set + (own_lists(l->d) ? SET : FREE); i++)
		l->node[i] = (struct lru_node){ i, i, 0, 0 };
	*turn_of(l) = l->nr + l->set + INACTIVE;
	if (!own_lists(l->d))
		l->state->free = 0;
}

void lru_rebuild(struct lru *l)
{
	u32 first, count = share(l, &first);

	empty(l);
	for (u32 i = first; i < first + count; i++) {
		struct elem *e = elem_at(l->d, i);
		struct lru_node *n = &l->node[i];
		u32 list = n->list == l->set + ACTIVE ? ACTIVE : INACTIVE, is = where(l, i);
		bool unused = is == GONE || is == FREE_FOR_ALL;

		n->list = NOWHERE;
		if (is == LISTED || is == HELD)
			unused = hash_settle(l->d, i, l->run) ||
				 __atomic_load_n(&e->transit, __ATOMIC_ACQUIRE) == ELEM_FREE;
		if (unused && !own_lists(l->d)) {
			common_free(l, i, false);
		} else if (unused) {
			__atomic_store_n(&e->transit, ELEM_FREE, __ATOMIC_RELEASE);
			lru_link(l, i, l->set + FREE);
		} else if (is == LISTED) {
			lru_link(l, i, l->set + list);
		}
	}
}

long lru_format(void *base, const struct shim_map_hdr *hdr)
{
	struct shim_map_desc d = { .base = (u64)base,
				   .nr_elems = hdr->nr_elems,
				   .nr_cpus = hdr->nr_cpus,
				   .map_flags = hdr->map_flags,
				   .stride = hdr->stride,
				   .elem_off = hdr->elem_off,
				   .state_off = hdr->state_off };
	struct lru l;

	lru_describe(&d);
	for (u32 i = 0; i < d.nr_elems; i++)
		elem_at(&d, i)->transit = ELEM_FREE;
	for (u32 cpu = 0; cpu < d.nr_cpus; cpu++) {
		lru_open(&l, &d, cpu, 0);
		l.mine->steal = cpu;
		if (own_lists(&d) || !cpu)
			lru_rebuild(&l);
	}
	return 0;
}
