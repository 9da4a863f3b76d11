/* Inside the LRU maps: their lists. Everything but the layout wants the map's lock held. */
#ifndef SHIM_MAP_LRU_H
#define SHIM_MAP_LRU_H

#include "map_hash.h"

/* A place on a list, circular: an element's, or (behind those of all elements) a list's head. */
struct lru_node {
	u32 next, prev; /* index of a node */
	u32 list; /* number of the list it is on; of a head: how many are on its list */
};

struct lru_cpu {
	u32 turn; /* node of the inactive list where it is looked through next */
	u32 steal; /* the CPU whose elements are taken next where there are no others */
};

/* At the start of the file. */
struct lru_state {
	u32 lock;
	u32 hand; /* elements are looked at from here on for what the dead had in their hands */
	u32 pad[14];
	struct lru_cpu cpu[];
};

/*
 * Numbers of lists. A set: what was used lately, what was not, and what is free. With
 * BPF_F_NO_COMMON_LRU each CPU has one for its share of the elements; else there is one set, and
 * behind it for each CPU its free elements and those that it has handed out of late (pending).
 */
enum { ACTIVE, INACTIVE, FREE, SET, OF_CPU = 2 };

/* A map's lists as one CPU sees them. */
struct lru {
	const struct shim_map_desc *d;
	struct shim_run *run;
	struct lru_state *state;
	struct lru_node *node;
	u32 nr, nodes; /* elements; nodes with the heads */
	u32 cpu;
	u32 set; /* number of its active list */
	u32 *turn;
	u32 scans; /* nodes that a look through a list takes in */
};

static inline bool own_lists(const struct shim_map_desc *d)
{
	return d->map_flags & BPF_F_NO_COMMON_LRU;
}

static inline u32 local_free(u32 cpu)
{
	return SET + cpu * OF_CPU;
}

static inline u32 pending(u32 cpu)
{
	return SET + cpu * OF_CPU + 1;
}

/* Whatever a hostile peer has written, a node is one. */
static inline struct lru_node *node_at(const struct lru *l, u32 index)
{
	return &l->node[index < l->nodes ? index : l->nodes - 1];
}

/* The newest and the oldest of a list, and the next newer one: below l->nr if there is one. */
static inline u32 newest(const struct lru *l, u32 list)
{
	return node_at(l, l->nr + list)->next;
}

static inline u32 oldest(const struct lru *l, u32 list)
{
	return node_at(l, l->nr + list)->prev;
}

static inline u32 newer(const struct lru *l, u32 index)
{
	return node_at(l, index)->prev;
}

static inline bool used(const struct lru *l, u32 index)
{
	return READ_ONCE(elem_at(l->d, index)->ref);
}

/* Without the lock. cpu: below d->nr_cpus. */
void lru_open(struct lru *l, const struct shim_map_desc *d, u32 cpu, struct shim_run *run);
/* To the front of a list, as an element that was not used since. */
void lru_move(struct lru *l, u32 index, u32 list);
/* From a list of free ones, or just out of its chain: to the front of a list and in this run's hand. */
void lru_take(struct lru *l, u32 index, u32 list);
/* Out of this run's hand, to the front of a list of free ones. */
void lru_give(struct lru *l, u32 index, u32 list);
/* Out of its chain, or of the hand of the dead, and in this run's hand. */
bool lru_evict(struct lru *l, u32 index);

/* Looks through the lists of the set: what was used gets to the front of the active one. */
void lru_rotate(struct lru *l);
/* What the dead had in their hands, of `want` elements or a few more, to the set's free ones. */
void lru_reclaim(struct lru *l, u32 want);
/* Evicts `want` elements of the set at most, to a list of free ones; one at least if that can be. */
void lru_shrink(struct lru *l, u32 want, u32 list);
/* After a death with the lock held: every element on a list again. */
void lru_rebuild(struct lru *l);

/* map_lru_free.c: an element in this run's hand for the CPU that it is on (the index, or l->nr: none
 * could be had), and back again. lru_lock takes the lock: -EBUSY. */
long lru_lock(struct lru *l, const struct shim_map_desc *d, u32 cpu, struct shim_run *run);
void lru_unlock(struct lru *l);
u32 lru_cpu(const struct shim_map_desc *d, const struct shim_run *run);
u32 lru_pop(struct lru *l);
void lru_push(struct lru *l, u32 index);

/* A map without elements. */
long lru_format(void *base, const struct shim_map_hdr *hdr);

#endif
