#include "core.h"

const volatile int limit = 17;
const volatile char name[] = "constant";
static const int table[16] = { 3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3 };
static const volatile struct {
	int a;
	u64 b;
} pair = { 1, 2 };
const u64 *const volatile pointer_free = 0;

int out;

SEC("tp/sched/sched_switch")
int sum(void *ctx)
{
	for (int i = 0; i < 16; i++)
		out += table[i] * limit;
	out += name[2] + pair.a + pair.b;
	bpf_printk("out %d of %d", out, limit);
	return table[out & 15];
}
