/*
 * What isolated programs do with what is not in their window: objects of the host's, records of ring
 * buffers, locks. Nothing that the program says of these is believed. An object is one that the entry
 * passes, that a host function gave, or that a load of a granted field of such an object gave; a record is
 * one that this run has reserved. The program writes into a copy of it, which is put into the ring when it
 * is submitted.
 *
 * The program's memory may change under our hands, by another thread of a program that went wrong: what
 * decides anything is read once, and what is handed out comes from here.
 */
#include "helpers.h"
#include "shim_held.h"

static struct shim_held *held_of(const struct shim_run *run)
{
	return (struct shim_held *)run->held;
}

static u64 argument(const struct shim_run *run, u32 at)
{
	u64 value = 0;

	if (run->regs && at <= sizeof(struct shim_pt_regs) - sizeof(value))
		memcpy(&value, (const u8 *)run->regs + at, sizeof(value));
	return value;
}

/* What the row says is there from the beginning: its address, or 0. */
static u64 root(const struct shim_run *run, const struct shim_host_row *row)
{
	if (row->kind == SHIM_HOST_ARG)
		return argument(run, row->a);
	return row->kind == SHIM_HOST_STATE ? row->a | (u64)row->b << 32 : 0;
}

/* Objects that there have been: what lies behind was never written. */
static u32 used(const struct shim_held *h)
{
	return h->next < SHIM_HELD_OBJECTS ? h->next : SHIM_HELD_OBJECTS;
}

/* A place for one more, in that of the oldest if there is none; not of one that is to be given back. */
static struct shim_held_object *take_place(struct shim_held *h)
{
	for (u32 i = 0; i < SHIM_HELD_OBJECTS; i++) {
		u32 at = h->next;
		struct shim_held_object *o = &h->object[at % SHIM_HELD_OBJECTS];

		h->next = at + 1 < 2 * SHIM_HELD_OBJECTS ? at + 1 : SHIM_HELD_OBJECTS;
		if (at < SHIM_HELD_OBJECTS || !o->acquired)
			return o;
	}
	return 0;
}

static void learn(struct shim_held *h, u64 addr, u32 node, u32 acquired)
{
	struct shim_held_object *o;

	for (u32 i = 0; i < used(h) && !acquired; i++)
		if (h->object[i].addr == addr && h->object[i].node == node)
			return;
	o = addr ? take_place(h) : 0;
	if (!o)
		return;
	o->addr = addr;
	o->node = node;
	o->acquired = acquired;
}

/* The bytes lie in an object at base, of that node: a field that leads on, or that may be written. */
static const struct shim_host_row *row_at(const struct shim_hosts *hosts, u32 kind, u32 node, u64 off,
					  u64 size)
{
	for (u64 i = 0; i < hosts->nr; i++) {
		const struct shim_host_row *row = &hosts->row[i];

		if (row->kind != kind || row->node != node)
			continue;
		if (kind == SHIM_HOST_LINK ? row->a == off
					   : off >= row->a && off <= row->b && size <= row->b - off)
			return row;
	}
	return 0;
}

/* The same, in any object that there is. */
static const struct shim_host_row *field(const struct shim_run *run, u32 kind, u64 addr, u64 size)
{
	const struct shim_held *h = held_of(run);
	const struct shim_hosts *hosts = (const struct shim_hosts *)h->hosts;
	const struct shim_host_row *found = 0;

	for (u64 i = 0; i < hosts->nr && !found; i++) {
		u64 base = root(run, &hosts->row[i]);

		if (base && addr >= base)
			found = row_at(hosts, kind, hosts->row[i].node, addr - base, size);
	}
	for (u32 i = 0; i < used(h) && !found; i++) {
		const struct shim_held_object *o = &h->object[i];

		if (o->addr && addr >= o->addr)
			found = row_at(hosts, kind, o->node, addr - o->addr, size);
	}
	return found;
}

/* What was read there may be the address of another object: by one field, of several nodes. */
static void follow(const struct shim_run *run, u64 addr, u64 value)
{
	struct shim_held *h = held_of(run);
	const struct shim_hosts *hosts = (const struct shim_hosts *)h->hosts;

	for (u64 i = 0; i < hosts->nr && value; i++) {
		const struct shim_host_row *link = &hosts->row[i];
		bool known = false;

		if (link->kind != SHIM_HOST_LINK)
			continue;
		for (u64 n = 0; n < hosts->nr && !known; n++)
			known = addr > link->a && hosts->row[n].node == link->node &&
				root(run, &hosts->row[n]) == addr - link->a;
		for (u32 n = 0; n < used(h) && !known; n++)
			known = h->object[n].node == link->node && h->object[n].addr &&
				h->object[n].addr == addr - link->a;
		if (known)
			learn(h, value, link->b, 0);
	}
}

static u64 object(const struct shim_run *run, u64 addr, u64 nodes, u64 flags)
{
	struct shim_held *h = held_of(run);
	const struct shim_hosts *hosts = (const struct shim_hosts *)h->hosts;

	if (!addr)
		return flags & SHIM_HELD_OR_NULL ? 0 : SHIM_HELD_OUTSIDE;
	for (u64 i = 0; i < hosts->nr && !(flags & SHIM_HELD_RELEASE); i++)
		if (nodes >> (hosts->row[i].node & 63) & 1 && root(run, &hosts->row[i]) == addr)
			return 0;
	for (u32 i = 0; i < used(h); i++) {
		struct shim_held_object *o = &h->object[i];

		if (o->addr != addr || !(nodes >> (o->node & 63) & 1))
			continue;
		if (!(flags & SHIM_HELD_RELEASE))
			return 0;
		if (!o->acquired)
			continue;
		o->addr = 0;
		o->acquired = 0;
		return 0;
	}
	return SHIM_HELD_OUTSIDE;
}

/* Of the host's, and not the agent's. */
static bool may_write(const struct shim_run *run, u64 addr, u64 size)
{
	return field(run, SHIM_HOST_WRITE, addr, size) &&
	       (!shim_host_clip || shim_host_clip(addr, size) == size);
}

static u64 read_pointer(shim_helper_fn read, u64 to, u64 from, struct shim_run *run)
{
	u64 value = 0, err = read((u64)&value, sizeof(value), from, 0, 0, run);

	memcpy((void *)to, &value, sizeof(value));
	if (!err)
		follow(run, from, value);
	return err;
}

static u64 reserve(u64 ring, u64 size, u64 flags, struct shim_run *run)
{
	struct shim_held *h = held_of(run);
	struct shim_held_record *r = 0;
	u64 end = h->room;

	for (u32 i = 0; i < SHIM_HELD_RECORDS; i++) {
		struct shim_held_record *one = &h->record[i];

		if (!one->real)
			r = one;
		else if (one->given + round_up(one->size, 8) > end)
			end = one->given + round_up(one->size, 8);
	}
	if (!r || flags || size > h->room_size || end - h->room > h->room_size - size)
		return 0;
	r->real = (u64)ringbuf_reserve((const struct shim_map_desc *)ring, size, run);
	if (!r->real)
		return 0;
	h->keeps++;
	r->given = end;
	r->size = size;
	return end;
}

static void commit(struct shim_held_record *r, u64 flags, u32 discard, struct shim_run *run)
{
	if (!discard)
		memcpy((void *)r->real, (const void *)r->given, r->size);
	ringbuf_commit((void *)r->real, flags, discard, run);
	r->real = 0;
	held_of(run)->keeps--;
}

static u64 given_back(u64 record, u64 flags, u32 discard, struct shim_run *run)
{
	for (u32 i = 0; i < SHIM_HELD_RECORDS; i++) {
		struct shim_held_record *r = &held_of(run)->record[i];

		if (!r->real || r->given != record)
			continue;
		commit(r, flags, discard, run);
		return 0;
	}
	return SHIM_HELD_OUTSIDE;
}

/* One at a time. A word that is never free again is no lock: the wait for it is bounded. */
static u64 lock(u64 at, struct shim_run *run)
{
	struct shim_held *h = held_of(run);

	if (h->lock || run_lock_second((u32 *)at, run) < 0)
		return SHIM_HELD_OUTSIDE;
	h->lock = at;
	h->keeps++;
	return 0;
}

static u64 unlock(u64 at, struct shim_run *run)
{
	struct shim_held *h = held_of(run);

	if (!at || h->lock != at)
		return SHIM_HELD_OUTSIDE;
	run_unlock((u32 *)at, run);
	h->lock = 0;
	h->keeps--;
	return 0;
}

void shim_held_end(struct shim_run *run)
{
	struct shim_held *h = held_of(run);

	for (u32 i = 0; i < SHIM_HELD_RECORDS; i++)
		if (h->record[i].real)
			commit(&h->record[i], 0, 1, run);
	if (h->lock)
		unlock(h->lock, run);
}

HELPER(held)
{
	UNUSED(r4);
	switch (r5) {
	case SHIM_HELD_LOAD: {
		u64 value = helper_host_peek(r1, r2, 0, 0, 0, run);

		if (r2 == sizeof(value))
			follow(run, r1, value);
		return value;
	}
	case SHIM_HELD_STORE:
		if (r3 > sizeof(r2) || !may_write(run, r1, r3))
			return SHIM_HELD_OUTSIDE;
		shim_copy_to(r1, &r2, r3);
		return 0;
	case SHIM_HELD_WRITE:
		if (!may_write(run, r1, (u32)r3))
			return SHIM_HELD_OUTSIDE;
		return shim_copy_to(r1, (const void *)r2, (u32)r3) ? (u64)-EFAULT : 0;
	case SHIM_HELD_OBJECT: return object(run, r1, r2, r3);
	case SHIM_HELD_LEARN: learn(held_of(run), r1, (u32)r2, (u32)r3); return 0;
	case SHIM_HELD_READ_USER: return read_pointer(helper_probe_read, r1, r3, run);
	case SHIM_HELD_READ_KERNEL: return read_pointer(helper_probe_read_kernel, r1, r3, run);
	case SHIM_HELD_RESERVE: return reserve(r1, r2, r3, run);
	case SHIM_HELD_SUBMIT: return given_back(r1, r2, 0, run);
	case SHIM_HELD_DISCARD: return given_back(r1, r2, 1, run);
	case SHIM_HELD_LOCK: return lock(r1, run);
	case SHIM_HELD_UNLOCK: return unlock(r1, run);
	default: return SHIM_HELD_OUTSIDE;
	}
}
