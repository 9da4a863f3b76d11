/* Inside the LRU maps: their lists, and what each CPU has of them. */
#ifndef SHIM_MAP_LRU_H
#define SHIM_MAP_LRU_H

#include "map_hash.h"

/* A place on a list, circular: an element's, or (behind those of all elements) a list's head. */
struct lru_node {
	u32 next, prev; /* index of a node; of a free one that all CPUs have: next alone, index + 1 */
	u32 list; /* number of the list it is on, or NOWHERE; of a head: how many are on its list */
	u32 where; /* what it counts as, whatever list it is still on */
};

enum { NOWHERE = 0xffffffff };

/* Of 'where', in its upper bits; below them the CPU, and (PENDING) the place in its log. */
enum {
	LISTED = 0, /* as its list says */
	PENDING = 1u << 30, /* handed out of late by a CPU */
	READY = 2u << 30, /* free, and a CPU's */
	OTHER = 3u << 30, /* one of the following */
	GONE = OTHER | 1, /* free; some log says so */
	FREE_FOR_ALL = OTHER | 2, /* in lru_state.free */
	HELD = OTHER | 3, /* in the hand of who has taken it from another CPU */
	CPU_SHIFT = 16,
};

/* At the start of the file; behind it each CPU's. */
struct lru_state {
	u32 lock; /* of the lists that all CPUs have; a CPU's lock goes before it, a bucket's after it */
	u32 free; /* index + 1 of the first free element */
	u32 turn; /* node of the inactive list where it is looked through next */
	u32 hand; /* elements are looked at from here on for what the dead had in their hands */
	u32 pad[12];
};

struct lru_cpu {
	u32 lock;
	u32 steal; /* the CPU whose elements are taken next where there are no others */
	u32 turn, hand; /* with BPF_F_NO_COMMON_LRU: as in lru_state */
	u32 nr_ready; /* elements that are ready */
	u32 owed; /* so many of them count as free for all */
	u32 nr_log;
	u32 untidy; /* what the log names may be on a list still */
	u32 at[]; /* room for those that are ready, then twice as much for the log */
};

/*
 * Numbers of lists: what was used lately, what was not. With BPF_F_NO_COMMON_LRU each CPU has a set
 * of them for its share of the elements, and with it a list of its free ones.
 */
enum { ACTIVE, INACTIVE, FREE, SET };

/* A map's lists as one CPU sees them. */
struct lru {
	const struct shim_map_desc *d;
	struct shim_run *run;
	struct lru_state *state;
	struct lru_node *node;
	struct lru_cpu *mine;
	u32 nr, nodes; /* elements; nodes with the heads */
	u32 cpu, room; /* of mine->at */
	u32 set; /* number of its active list */
	u32 spare; /* the element that lru_ready() has found */
};

static inline bool own_lists(const struct shim_map_desc *d)
{
	return d->map_flags & BPF_F_NO_COMMON_LRU;
}

/* Whatever a hostile peer has written, a node is one. */
static inline struct lru_node *node_at(const struct lru *l, u32 index)
{
	return &l->node[index < l->nodes ? index : l->nodes - 1];
}

/* index: below l->nr. */
static inline u32 where(const struct lru *l, u32 index)
{
	return READ_ONCE(l->node[index].where);
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

/* Elements that a CPU can have ready. */
static inline u32 lru_room(u32 target)
{
	return target + 2;
}

/* cpu: below d->nr_cpus. */
static inline struct lru_cpu *lru_cpu_at(const struct shim_map_desc *d, u32 cpu)
{
	u8 *first = desc_at(d, d->state_off + sizeof(struct lru_state));

	return (struct lru_cpu *)(first + cpu * (u64)d->lru_cpu_size);
}

static inline void lru_open(struct lru *l, const struct shim_map_desc *d, u32 cpu, struct shim_run *run)
{
	l->d = d;
	l->run = run;
	l->state = desc_at(d, d->state_off);
	l->mine = lru_cpu_at(d, cpu);
	l->node = desc_at(d, d->lru_nodes);
	l->nr = d->nr_elems;
	l->nodes = l->nr + (own_lists(d) ? d->nr_cpus * SET : FREE);
	l->cpu = cpu;
	l->room = lru_room(d->lru_target);
	l->set = own_lists(d) ? cpu * SET : 0;
}

/* Where the inactive list is looked through next. */
static inline u32 *turn_of(const struct lru *l)
{
	return own_lists(l->d) ? &l->mine->turn : &l->state->turn;
}

/* The virtual CPU of a run, where the machine has as many; else the machine's own. */
static inline u32 lru_cpu(const struct shim_map_desc *d, const struct shim_run *run)
{
	u32 cpu = run->vcpu < d->nr_cpus ? run->vcpu : real_cpu() & 0xfff;

	return __builtin_expect(cpu < d->nr_cpus, 1) ? cpu : cpu % d->nr_cpus;
}

/*
 * map_lru_list.c: lists, under the lock that is theirs: lru_state's, or the CPU's own.
 */
void lru_link(struct lru *l, u32 index, u32 list); /* to the front */
void lru_unlink(struct lru *l, u32 index);
void lru_move(struct lru *l, u32 index, u32 list); /* as one that was not used since */
/* Out of its chain, or of the hand of the dead, and in this run's hand. */
bool lru_evict(struct lru *l, u32 index);
/* Looks through the lists of the set: what was used gets to the front of the active one. */
void lru_rotate(struct lru *l);
/* What the dead had in their hands, of `want` elements or a few more, is free. */
void lru_reclaim(struct lru *l, u32 want);
/* Evicts `want` elements of the set at most; one at least if that can be. They are free. */
void lru_shrink(struct lru *l, u32 want);
/* After a death with the lock held: every element on a list again, or free. */
void lru_rebuild(struct lru *l);
long lru_format(void *base, const struct shim_map_hdr *hdr);

/* map_lru_plain.c: an update without flags; map_lru.c: the same, of any map. */
long lru_update_any(const struct shim_map_desc *d, const void *key, const void *value,
		    struct shim_run *run);
long lru_update_plain(const struct shim_map_desc *d, const void *key, const void *value,
		      struct shim_run *run);

/*
 * map_lru_free.c: where an update gets its element.
 */
void lru_mend(struct lru *l); /* after a death with the CPU's lock held */

/* The CPU's lock: -EBUSY. */
static inline long lru_lock(struct lru *l)
{
	long ret = run_lock(&l->mine->lock, l->run);

	if (__builtin_expect(ret > 0, 0))
		lru_mend(l);
	return ret;
}

static inline void lru_unlock(struct lru *l)
{
	run_unlock(&l->mine->lock, l->run);
}

/*
 * With the CPU's lock; where each CPU has lists of its own (own_), or not (common_, map_lru_cpu.h).
 * ready: sees to it that there is a free element; 0, or -EBUSY, -ENOMEM without the lock. take: that
 * one, for a new key, in this run's hand, once after ready; l->nr: somebody has spoilt the map. renew:
 * a key's element counts as the one that its key has got just now, and the free one as that which it
 * had; false: it cannot, and the two are to be exchanged.
 */
long own_ready(struct lru *l);
u32 own_take(struct lru *l);
bool own_renew(struct lru *l, u32 index);
/* Lets the lock go. gone: an element in this run's hand that is free from now on, or l->nr. */
void lru_end_with(struct lru *l, u32 gone);

static inline void lru_end(struct lru *l, u32 gone)
{
	if (__builtin_expect(gone < l->nr, 0))
		lru_end_with(l, gone);
	else
		lru_unlock(l);
}

#endif
