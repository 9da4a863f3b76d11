/*
 * What ids in map values stand for here (struct shim_objects, shim_map.h). Runs read the table while it
 * changes: an entry's address is there before its key is, and a bigger table is whole before the
 * session's word names it. Tables that were outgrown stay mapped until the session ends: together
 * they are smaller than the last. Under root.lock.
 */
#include "shim_map.h"
#include "keys.h"

enum { FIRST = 4096 }; /* bytes of the first table */

static u32 home(u64 key)
{
	return (u32)key * 0x9e3779b1u;
}

/* The entry of the key, or the one to put it into; NULL: no room. */
static struct shim_object *place(struct shim_objects *table, u64 key)
{
	struct shim_object *free = NULL;
	u32 at = home(key);

	for (u32 n = 0; n < table->nr; n++, at++) {
		struct shim_object *o = &table->at[at & (table->nr - 1)];

		if (o->key == key)
			return o;
		if (o->key == SHIM_OBJECT_GONE && !free)
			free = o;
		if (!o->key)
			return free ? free : o;
	}
	return free;
}

static void put(struct shim_objects *table, struct shim_object *o, u64 key, u64 addr)
{
	if (o->key == key) {
		agent_store(&o->addr, addr);
		return;
	}
	table->used += !o->key;
	table->live++;
	agent_store(&o->addr, addr);
	agent_store(&o->key, key);
}

/* A table with room for one more, in the place of 'old' (NULL: there was none). */
static struct shim_objects *grown(struct shim_objects *old, u32 session)
{
	u64 size = old ? old->size : FIRST;
	struct shim_objects *fresh;
	long at;

	if (old && old->live * 4 >= old->nr)
		size *= 2;
	at = shim_sys6(NR_MMAP, 0, (long)size, PROT_RW, MAP_PRIVATE_ | MAP_ANON_, -1, 0);
	if (at < 0 && at > -4096)
		return NULL;
	if (agent_keys_also(session, (u64)at, size)) {
		shim_sys2(NR_MUNMAP, at, size);
		return NULL;
	}
	fresh = (struct shim_objects *)at;
	fresh->prev = (u64)old;
	fresh->size = size;
	for (fresh->nr = 1; (fresh->nr * 2 + 2) * sizeof(struct shim_object) <= size;)
		fresh->nr *= 2;
	for (u32 i = 0; old && i < old->nr; i++) {
		struct shim_object *o = &old->at[i];

		if (o->key && o->key != SHIM_OBJECT_GONE)
			put(fresh, place(fresh, o->key), o->key, o->addr);
	}
	return fresh;
}

long agent_object_set(struct shim_session *session, u64 key, u64 addr)
{
	struct shim_objects *table = (struct shim_objects *)session->objects;

	if (!table || table->used * 4 >= table->nr * 3) {
		table = grown(table, (u32)(session - shim_agent_root.sessions));
		if (!table)
			return -E_NOMEM;
	}
	put(table, place(table, key), key, addr);
	agent_store(&session->objects, (u64)table);
	return 0;
}

/* No probe goes on over the end of a chain: entries there that are free again are as never used. */
static void trim(struct shim_objects *table, u32 at)
{
	u32 mask = table->nr - 1;

	while (!table->at[(at + 1) & mask].key && table->at[at & mask].key == SHIM_OBJECT_GONE) {
		agent_store(&table->at[at & mask].key, 0);
		table->used--;
		at--;
	}
}

void agent_object_drop(struct shim_session *session, u64 key)
{
	struct shim_objects *table = (struct shim_objects *)session->objects;
	struct shim_object *o = table ? place(table, key) : NULL;

	if (!o || o->key != key)
		return;
	agent_store(&o->key, (u64)SHIM_OBJECT_GONE);
	table->live--;
	trim(table, (u32)(o - table->at));
}

void agent_objects_end(u64 at)
{
	while (at) {
		struct shim_objects *table = (struct shim_objects *)at;
		u64 prev = table->prev;

		shim_sys2(NR_MUNMAP, at, table->size);
		at = prev;
	}
}
