/*
 * The lists of an LRU map and how elements age on them, as kernel/bpf/bpf_lru_list.c has it: the order
 * in which elements are evicted is the kernel's.
 *
 * A hit sets a bit in its element and touches no list. Who needs a free element looks through some of
 * the elements: one that was used loses the bit and gets to the front of the active list; the tail
 * of an active list that has grown longer than the inactive one comes over unless it was used; what is
 * at the end of the inactive list and was not used goes.
 *
 * All lists change under one lock, and every element is on exactly one. A death in between leaves links
 * that lead nowhere sure; 'transit' of each element says what it was (map_hash_free.c), so the next
 * owner puts all of them on new lists, the active ones among them on the active list.
 */
#include "map_lru.h"

enum { SCANS = 128, OWN_SCANS = 4, LOOK = 8 };

static u32 heads(u32 cpus, u32 map_flags)
{
	return map_flags & BPF_F_NO_COMMON_LRU ? cpus * SET : SET + cpus * OF_CPU;
}

u64 lru_cpus_size(u32 cpus)
{
	return round_up(cpus * sizeof(struct lru_cpu), 64);
}

u64 lru_nodes_size(u32 elems, u32 cpus, u32 map_flags)
{
	return round_up(((u64)elems + heads(cpus, map_flags)) * sizeof(struct lru_node), 64);
}

void lru_open(struct lru *l, const struct shim_map_desc *d, u32 cpu, struct shim_run *run)
{
	bool own = own_lists(d);

	l->d = d;
	l->run = run;
	l->state = desc_at(d, d->state_off);
	l->nr = d->nr_elems;
	l->nodes = l->nr + heads(d->nr_cpus, d->map_flags);
	l->node = desc_at(d, d->elem_off - lru_nodes_size(l->nr, d->nr_cpus, d->map_flags));
	l->cpu = cpu;
	l->set = own ? cpu * SET : 0;
	l->turn = &l->state->cpu[own ? cpu : 0].turn;
	l->scans = own ? OWN_SCANS : SCANS;
}

/* one element */

static void link_first(struct lru *l, u32 index, u32 list)
{
	struct lru_node *n = node_at(l, index), *head = node_at(l, l->nr + list);

	n->list = list;
	n->next = head->next;
	n->prev = l->nr + list;
	node_at(l, head->next)->prev = index;
	head->next = index;
	head->list++;
}

void lru_move(struct lru *l, u32 index, u32 list)
{
	struct lru_node *n = node_at(l, index);
	struct elem *e = elem_at(l->d, index);

	if (*l->turn == index)
		*l->turn = n->prev;
	node_at(l, n->prev)->next = n->next;
	node_at(l, n->next)->prev = n->prev;
	node_at(l, l->nr + n->list)->list--;
	link_first(l, index, list);
	if (READ_ONCE(e->ref))
		WRITE_ONCE(e->ref, 0);
}

void lru_take(struct lru *l, u32 index, u32 list)
{
	__atomic_store_n(&elem_at(l->d, index)->transit, l->run->owner, __ATOMIC_RELEASE);
	lru_move(l, index, list);
}

void lru_give(struct lru *l, u32 index, u32 list)
{
	lru_move(l, index, list);
	__atomic_store_n(&elem_at(l->d, index)->transit, ELEM_FREE, __ATOMIC_RELEASE);
}

/* Who is in this process is not dead. */
static bool alive(const struct lru *l, u32 owner)
{
	return !((owner ^ l->run->owner) >> SHIM_OWNER_GEN_SHIFT);
}

static bool unlink(struct lru *l, u32 index)
{
	struct elem *e = elem_at(l->d, index);
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
	return !__atomic_load_n(&e->transit, __ATOMIC_ACQUIRE) && unlink(l, index);
}

/* many */

static void rotate_active(struct lru *l)
{
	u32 active = l->set + ACTIVE, i = oldest(l, active), end = newest(l, active), next;

	for (u32 n = 0; n < l->scans && i < l->nr; n++, i = next) {
		next = newer(l, i);
		lru_move(l, i, used(l, i) ? active : l->set + INACTIVE);
		if (i == end)
			break;
	}
}

/* Goes on where it stopped the last time, once round at most. */
static void rotate_inactive(struct lru *l)
{
	u32 head = l->nr + l->set + INACTIVE, at = *l->turn, next = head, end;

	end = node_at(l, at)->next;
	if (end == head)
		end = node_at(l, head)->next;
	for (u32 n = 0; n < l->scans; n++, at = next) {
		if (at == head)
			at = node_at(l, head)->prev;
		if (at >= l->nr)
			break; /* none is left */
		next = newer(l, at);
		if (used(l, at))
			lru_move(l, at, l->set + ACTIVE);
		if (at == end)
			break;
	}
	*l->turn = next;
}

void lru_rotate(struct lru *l)
{
	struct lru_node *first = node_at(l, l->nr + l->set);

	if (first[INACTIVE].list < first[ACTIVE].list)
		rotate_active(l);
	if (newest(l, l->set + INACTIVE) < l->nr)
		rotate_inactive(l);
}

/* The set whose lists an element is always on. */
static u32 set_of(const struct lru *l, u32 index)
{
	return own_lists(l->d) ? index / (l->nr / l->d->nr_cpus) * SET : 0;
}

void lru_reclaim(struct lru *l, u32 want)
{
	u32 most = want > LOOK ? want : LOOK;

	for (u32 n = 0; n < most && n < l->nr; n++) {
		u32 i = l->state->hand < l->nr ? l->state->hand : 0;

		l->state->hand = i + 1;
		if (set_of(l, i) == l->set && hash_settle(l->d, i, l->run))
			lru_give(l, i, l->set + FREE);
	}
}

static u32 shrink_inactive(struct lru *l, u32 want, u32 list)
{
	u32 i = oldest(l, l->set + INACTIVE), got = 0, next;

	for (u32 n = 0; n < l->scans && i < l->nr && got < want; n++, i = next) {
		next = newer(l, i);
		if (used(l, i)) {
			lru_move(l, i, l->set + ACTIVE);
		} else if (lru_evict(l, i)) {
			lru_give(l, i, list);
			got++;
		}
	}
	return got;
}

void lru_shrink(struct lru *l, u32 want, u32 list)
{
	u32 from = l->set + INACTIVE, i;

	if (shrink_inactive(l, want, list))
		return;
	if (newest(l, from) >= l->nr)
		from = l->set + ACTIVE;
	i = oldest(l, from);
	for (u32 n = 0; n < l->nr && i < l->nr; n++, i = newer(l, i))
		if (lru_evict(l, i)) {
			lru_give(l, i, list);
			return;
		}
}

/* all */

static void empty(struct lru *l)
{
	u32 cpus = l->d->nr_cpus;

	for (u32 i = l->nr; i < l->nodes; i++)
		l->node[i] = (struct lru_node){ i, i, 0 };
	for (u32 cpu = 0; cpu < cpus; cpu++)
		l->state->cpu[cpu] = (struct lru_cpu){
			l->nr + INACTIVE + (own_lists(l->d) ? cpu * SET : 0), cpu
		};
}

void lru_rebuild(struct lru *l)
{
	empty(l);
	for (u32 i = 0; i < l->nr; i++) {
		struct elem *e = elem_at(l->d, i);
		u32 set = set_of(l, i), list = l->node[i].list == set + ACTIVE ? ACTIVE : INACTIVE;

		if (hash_settle(l->d, i, l->run))
			__atomic_store_n(&e->transit, ELEM_FREE, __ATOMIC_RELEASE);
		if (__atomic_load_n(&e->transit, __ATOMIC_ACQUIRE) == ELEM_FREE)
			list = FREE;
		link_first(l, i, set + list);
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

	lru_open(&l, &d, 0, 0);
	for (u32 i = 0; i < d.nr_elems; i++)
		elem_at(&d, i)->transit = ELEM_FREE;
	empty(&l);
	for (u32 i = 0; i < d.nr_elems; i++)
		link_first(&l, i, set_of(&l, i) + FREE);
	return 0;
}
