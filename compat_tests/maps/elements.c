/* Commands of one element, and what is told of each. */
#include <string.h>

#include "driver.h"

uint64_t pointer(uint8_t *good, int mode)
{
	return mode == GOOD ? (uintptr_t)good : mode == NONE ? 0 : 0x1000;
}

uint8_t *key_at(uint32_t index)
{
	return keys + (size_t)(index % seq.nkeys) * create.key_size;
}

uint32_t which_fd(const struct op *op)
{
	return (uint32_t)(op->mode & BAD_FD ? 999999 : op->mode & OTHER_FD ? other : fd);
}

int single(int cmd, const struct op *op, uint8_t *key, uint8_t *value)
{
	union bpf_attr a;

	memset(&a, 0, sizeof(a));
	a.map_fd = which_fd(op);
	if (create.key_size)
		a.key = pointer(key, op->mode & 3);
	else /* then it must be NULL */
		a.key = op->mode & 3 ? 0x1000 : 0;
	if (cmd != BPF_MAP_DELETE_ELEM)
		a.value = pointer(value, op->mode >> 2 & 3);
	if (cmd != BPF_MAP_DELETE_ELEM && cmd != BPF_MAP_GET_NEXT_KEY)
		a.flags = op->flags;
	if (op->mode & JUNK_TAIL)
		((uint8_t *)&a)[100] = 1;
	return bpf(cmd, &a, 120);
}

uint8_t *key_buffer(size_t size)
{
	return key_area + AREA - size;
}

uint8_t *value_buffer(size_t size)
{
	return value_area + AREA - size;
}

/* Of one element: at the end of mapped memory, or in the program's own, as loaders have it. */
static uint8_t *one_key(void)
{
	static uint8_t near[4096];

	return seq.style & NEAR ? near : key_buffer(create.key_size);
}

static uint8_t *one_value(size_t size)
{
	static uint8_t near[1 << 16];

	return seq.style & NEAR && size <= sizeof(near) ? near : value_buffer(size);
}

static int touched(const uint8_t *at, size_t size)
{
	for (size_t i = 0; i < size; i++)
		if (at[i] != FILL)
			return 1;
	return 0;
}

void answer(int ret, const uint8_t *bytes, size_t size)
{
	put32((uint32_t)ret);
	put32((uint32_t)size);
	put(bytes, size);
}

void do_read(const struct op *op)
{
	size_t size = value_bytes();
	uint8_t *value = one_value(size), *key = one_key();
	int ret;

	memset(value, FILL, size);
	if (create.map_type == BPF_MAP_TYPE_BLOOM_FILTER)
		make_value(value, op->value);
	memcpy(key, key_at(op->key), create.key_size);
	ret = single(op->cmd == TAKE ? BPF_MAP_LOOKUP_AND_DELETE_ELEM : BPF_MAP_LOOKUP_ELEM, op, key,
		     value);
	if (ret && !touched(value, size)) {
		answer(ret, NULL, 0);
		return;
	}
	put32((uint32_t)ret);
	put32((uint32_t)shown_bytes());
	show_value(out + out_len, value);
	out_len += shown_bytes();
}

void do_write(const struct op *op)
{
	size_t size = value_bytes();
	uint8_t *value = one_value(size), *key = one_key();

	memcpy(key, key_at(op->key), create.key_size);
	make_value(value, op->value);
	answer(single(op->cmd == UPDATE ? BPF_MAP_UPDATE_ELEM : BPF_MAP_DELETE_ELEM, op, key, value),
	       NULL, 0);
}

static int exists(uint8_t *key)
{
	static const struct op plain;
	size_t size = value_bytes();

	return !single(BPF_MAP_LOOKUP_ELEM, &plain, key, one_value(size));
}

/* Of an unordered map: whether there is a next key, if that does not depend on the order, and
 * whether what came is a key of the map. */
void do_next(const struct op *op)
{
	uint8_t *key = one_key(), *next = one_value(create.key_size), ok;
	uint8_t copy[4096];
	int ret, known = 0;

	memcpy(key, key_at(op->key), create.key_size);
	if (seq.style & UNORDERED && (op->mode & 3) == GOOD)
		known = exists(key);
	memset(next, FILL, create.key_size);
	ret = single(BPF_MAP_GET_NEXT_KEY, op, key, next);
	if (!(seq.style & UNORDERED)) {
		answer(ret, next, touched(next, create.key_size) ? create.key_size : 0);
		return;
	}
	memcpy(copy, next, create.key_size);
	ok = ret || exists(copy);
	if (known && ret == -ENOENT) /* it is the last one, here */
		ret = op->mode >> 2 & 3 ? -EFAULT : 0;
	answer(ret, &ok, 1);
}
