// SPDX-License-Identifier: GPL-2.0
/* Operations of programs, LOOPS of one kind each; "nothing" is the loop alone. Keys are 0 to LOOPS - 1. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "ops.h"

#define MAP(name_, type_, entries_) \
	struct { \
		__uint(type, BPF_MAP_TYPE_##type_); \
		__uint(max_entries, entries_); \
		__type(key, __u32); \
		__type(value, __u64); \
	} name_ SEC(".maps")

MAP(array, ARRAY, LOOPS);
MAP(percpu_array, PERCPU_ARRAY, LOOPS);
MAP(hash, HASH, 1024);
MAP(other_hash, HASH, 1024);
MAP(percpu_hash, PERCPU_HASH, 1024);
MAP(lru, LRU_HASH, 1024);
MAP(full_lru, LRU_HASH, 1024);

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RING);
} ring SEC(".maps");

struct record {
	__u64 word[8];
};

/* What is put on the stack in each round stands for the key there. */
#define OPERATION(name, ...) \
	SEC("tc") \
	int name(struct __sk_buff *ctx) \
	{ \
		__u64 sum = 0, *value; \
\
		(void)ctx, (void)value; \
		_Pragma("clang loop unroll(disable)") for (__u32 i = 0; i < LOOPS; i++) \
		{ \
			volatile __u32 on_stack = i; \
			__u32 key = i; \
\
			(void)key, (void)on_stack; \
			__VA_ARGS__ \
		} \
		return (int)sum; \
	}

OPERATION(nothing, )

OPERATION(array_increment, value = bpf_map_lookup_elem(&array, &key);
	  if (value) __sync_fetch_and_add(value, 1);)

OPERATION(percpu_array_increment, value = bpf_map_lookup_elem(&percpu_array, &key);
	  if (value) *value += 1;)

OPERATION(hash_increment, value = bpf_map_lookup_elem(&hash, &key);
	  if (value) __sync_fetch_and_add(value, 1);)

OPERATION(hash_update, __u64 next = key; sum |= bpf_map_update_elem(&hash, &key, &next, BPF_ANY);)

OPERATION(hash_insert_delete, __u64 next = key;
	  sum |= bpf_map_update_elem(&other_hash, &key, &next, BPF_ANY);
	  sum |= bpf_map_delete_elem(&other_hash, &key);)

OPERATION(percpu_hash_increment, value = bpf_map_lookup_elem(&percpu_hash, &key);
	  if (value) *value += 1;)

OPERATION(lru_update, __u64 next = key; sum |= bpf_map_update_elem(&lru, &key, &next, BPF_ANY);)

/* Set by ops.c before it loads this: 64 bytes of memory, the first TEXT of them text, and where none is. */
const volatile __u64 user_at, nowhere_at;

OPERATION(read_8, __u64 word; sum |= bpf_probe_read_user(&word, 8, (void *)user_at);)

OPERATION(read_64, __u64 words[8]; sum |= bpf_probe_read_user(words, sizeof(words), (void *)user_at);)

OPERATION(read_str, char text[64];
	  sum |= bpf_probe_read_user_str(text, sizeof(text), (void *)user_at) != TEXT;)

OPERATION(read_stack, volatile __u64 there = key; __u64 word;
	  sum |= bpf_probe_read_kernel(&word, 8, (void *)&there) || word != key;)

OPERATION(read_null, __u64 word; sum |= !bpf_probe_read_user(&word, 8, (void *)8);)

OPERATION(read_nowhere, __u64 word; sum |= !bpf_probe_read_user(&word, 8, (void *)nowhere_at);)

static __u32 turn;

/* each a new key, for which another one goes */
OPERATION(lru_update_new, __u64 next = key; __u32 fresh = turn++;
	  sum |= bpf_map_update_elem(&full_lru, &fresh, &next, BPF_ANY);)

OPERATION(ring_submit, struct record *record = bpf_ringbuf_reserve(&ring, sizeof(*record), 0);
	  if (!record) return -1; record->word[0] = key; bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);)

OPERATION(ktime, sum |= bpf_ktime_get_ns() >> 63;)

/* ordered: what was loaded could be another thread's time */
OPERATION(ktime_ordered, sum |= ctx->len >> 31; sum |= bpf_ktime_get_ns() >> 63;)

OPERATION(pid_tgid, sum |= !bpf_get_current_pid_tgid();)

/* The maps as the operations find them. */
OPERATION(fill, __u64 next = key; sum |= bpf_map_update_elem(&hash, &key, &next, BPF_ANY);
	  sum |= bpf_map_update_elem(&percpu_hash, &key, &next, BPF_ANY);
	  sum |= bpf_map_update_elem(&lru, &key, &next, BPF_ANY);)

char LICENSE[] SEC("license") = "GPL";
