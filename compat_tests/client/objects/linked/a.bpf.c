#include "../core.h"

int counter = 3;
extern int other_counter;
int shared_func(int x);

__weak NOINLINE int chosen(int x)
{
	return x + 1;
}

SEC("uprobe")
int from_a(void *ctx)
{
	counter += other_counter;
	return shared_func(counter) + chosen(1);
}
