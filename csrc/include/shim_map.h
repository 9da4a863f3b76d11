/*
 * A map as a file: [part that a loader may mmap, byte for byte the kernel's, from
 * offset 0] [private part: buckets, elements, ring state] [header, in the last page].
 * The file is a memfd named "bpf-map", sealed against resize.
 *
 * Every reader keeps a private descriptor, made once from the checked header
 * (shim_map_desc_init); sizes, masks and offsets are taken from it afterwards, never
 * again from shared memory. Offsets read from shared memory are checked before use.
 */
#ifndef SHIM_MAP_H
#define SHIM_MAP_H

#include "shim_types.h"
#include "shim_ctl.h"

enum { SHIM_MAP_MAGIC = 0x50414d53, SHIM_MAP_VERSION = 7, SHIM_PAGE = 4096 };

struct shim_map_hdr {
	u32 magic;
	u32 version;
	u32 id;
	u32 type; /* enum bpf_map_type */
	u32 key_size; /* bytes */
	u32 value_size; /* bytes, as given at MAP_CREATE */
	u32 max_entries;
	u32 map_flags;
	u32 nr_vcpus;
	u32 stride; /* array: round_up(value_size, 8); hash: bytes of one element */
	u64 file_size; /* bytes, header page included */
	u64 mmap_size; /* bytes that a loader may map */
	u64 map_extra;
	/* private part, offsets in bytes from the start of the file; 0: absent */
	u64 bucket_off;
	u64 elem_off;
	u64 state_off; /* counters, free lists, ring positions */
	u32 nr_buckets; /* power of two */
	u32 nr_elems;
	char name[16];
	/* mutable, advisory: */
	u32 frozen;
	u32 restricted; /* some descriptor of it may not read or not write: ask the descriptor */
	/* what the value's BTF says is special: offset in bytes + 1, 0: there is none */
	u32 lock_at; /* struct bpf_spin_lock, 4 bytes */
	u32 timer_at; /* struct bpf_timer, 16 bytes */
	u32 nr_cpus; /* possible CPUs of the machine: each has lists in an LRU map; 0: nr_vcpus */
	u32 pad[3];
};

/* One mapping of one map in one process. 'base' is that process's address of the file. */
struct shim_map_desc {
	u64 base;
	u64 ctl; /* address of struct shim_ctl here */
	u64 perf; /* address of the session's perf area here, or 0 */
	u64 perf_size;
	u32 type, key_size, value_size, max_entries;
	u32 map_flags, nr_vcpus, stride, bucket_mask;
	u64 bucket_off, elem_off, state_off, file_size;
	u32 id, nr_elems;
	u64 mmap_size;
	u64 map_extra;
	u32 lock_at, timer_at; /* as in the header */
	/* maps whose values are objects (PROG_ARRAY, *_OF_MAPS): address of the word that holds
	 * the address of this process's struct shim_objects, or 0; filled in by whoever mapped the map */
	u64 objects;
	u32 nr_cpus; /* as in the header */
	u32 lru_target; /* LRU: elements that a CPU gets ready at a time */
	u64 lru_nodes; /* offset of its lists */
	u32 lru_cpu_size; /* bytes of what each CPU has */
	u32 cpu_slots; /* PERCPU_*, LRU_PERCPU_HASH: values from a CPU's first to the next CPU's */
};
SHIM_ASSERT(sizeof(struct shim_map_desc) == 160);

/*
 * What ids in the values of PROG_ARRAY, ARRAY_OF_MAPS and HASH_OF_MAPS stand for in one process:
 * the entry of a program's image, or a struct shim_map_desc. Private memory of the process, one
 * table a session, so a fork child has its own. Open addressing; an id is in the table before it
 * is in any value, and leaves it only when no run can have read it there. Ids are never used again.
 */
struct shim_object {
	u64 key; /* SHIM_OBJECT_* << 32 | id; 0: never used, SHIM_OBJECT_GONE: free again */
	u64 addr;
};

struct shim_objects {
	u64 prev; /* the smaller table that this one took the place of, or 0 */
	u64 size; /* bytes mapped */
	u32 nr; /* power of two */
	u32 live; /* keys that stand for something */
	u32 used; /* keys that are not 0 */
	u32 pad;
	struct shim_object at[];
};
SHIM_ASSERT(sizeof(struct shim_objects) == 32);

enum { SHIM_OBJECT_MAP = 1, SHIM_OBJECT_PROG = 2, SHIM_OBJECT_UNWIND = 3, SHIM_OBJECT_WINDOW = 4 };
enum { SHIM_OBJECT_GONE = 0xffffffff };

/* At state_off of an ARENA: where its loader maps it, 0: not known yet. Set once. */
struct shim_arena {
	u64 start;
	u64 end;
};

/* One value of a PERF_EVENT_ARRAY, changed by one store: where in the perf area the ring lies (page
 * aligned), and below that SHIM_PERF_*; 0: an empty slot. The ring is a perf_event_mmap_page
 * followed by data pages, as the kernel lays it out. */
struct shim_perf_slot {
	u64 word;
};

enum {
	SHIM_PERF_SIZE = 63, /* log2 of the bytes of data; 0: not mapped yet */
	SHIM_PERF_RING = 64,
	SHIM_PERF_EVENT = 128, /* an event that takes no output */
};

#endif
