/* driver: what its files share; see driver.c. */
#ifndef DRIVER_H
#define DRIVER_H

#include <errno.h>
#include <linux/bpf.h>
#include <stddef.h>
#include <stdint.h>

enum { UNORDERED = 1, PERCPU = 2, PIN = 4, PIDFDS = 8, NEAR = 16 };
enum { BYTES, INNER_MAPS, PROGS, CGROUPS, EVENTS, KINDS };
enum {
	NOP,
	LOOKUP,
	UPDATE,
	DELETE,
	NEXT,
	TAKE,
	READ_BATCH,
	TAKE_BATCH,
	UPDATE_BATCH,
	DELETE_BATCH,
	FREEZE,
	INFO,
	WALK,
	BATCH_WALK,
	DRAIN,
	RUN,
	MOVE
};
enum { GOOD, NONE, BAD }; /* pointers */
enum { JUNK_TAIL = 16, BAD_FD = 32, OTHER_FD = 64 };
enum { TASKS = 4 /* keys of PIDFDS that name processes */ };
enum { AREA = 256 << 20, SHOWN_CPUS = 2, MAX_AUX = 8, FILL = 0xa5 };

struct sequence {
	uint32_t nops, nkeys, btf_len, style, values;
	uint32_t cpu; /* PIN: where it begins */
	uint8_t attr[128];
};

struct op {
	uint8_t cmd;
	uint8_t mode; /* key pointer, value pointer << 2, JUNK_TAIL, ... */
	uint8_t in; /* of a batch: pointer to the position; RUN: what the program does */
	uint8_t stride; /* of the keys of a batch */
	uint32_t key; /* index */
	uint64_t flags;
	uint32_t value; /* seed, or index of an object */
	uint32_t count;
};

extern union bpf_attr create;
extern struct sequence seq;
extern uint8_t *keys, *key_area, *value_area, *out;
extern size_t out_len;
extern uint32_t ncpus;
extern int runner; /* a program on the sequence's map; 0: not loaded yet */
extern int fd, aux[KINDS][MAX_AUX], other;

/* driver.c */
void die(const char *what);
int bpf(int cmd, void *attr, uint32_t size);
void put(const void *from, size_t size);
void put32(uint32_t v);

/* values.c: what is written, and what is told of what was read */
size_t value_bytes(void);
void make_one(uint8_t *at, size_t size, uint64_t seed);
void make_value(uint8_t *at, uint32_t seed);
size_t shown_bytes(void);
void show_value(uint8_t *to, const uint8_t *at);
int new_map(uint32_t type, uint32_t key, uint32_t value, uint32_t entries);
void make_aux(uint32_t kind);

/* elements.c: one element at a time */
uint8_t *key_at(uint32_t index);
uint32_t which_fd(const struct op *op);
uint64_t pointer(uint8_t *good, int mode);
int single(int cmd, const struct op *op, uint8_t *key, uint8_t *value);
uint8_t *key_buffer(size_t size);
uint8_t *value_buffer(size_t size);
void answer(int ret, const uint8_t *bytes, size_t size);
void do_read(const struct op *op);
void do_write(const struct op *op);
void do_next(const struct op *op);

/* batches.c: many */
void do_read_batch(const struct op *op);
void do_write_batch(const struct op *op);
void do_walk(void);
void do_batch_walk(const struct op *op);

#endif
