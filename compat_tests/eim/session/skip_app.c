/* Functions to be skipped: skip_app N calls each N times and prints what it got, and whether the
 * registers that are its own stayed. With another argument it waits for a line first. */
#include <stdio.h>
#include <stdlib.h>

struct item {
	int number;
	int ran;
};
long bumped;

__attribute__((noipa)) int app_rule(struct item *item)
{
	item->ran++;
	return 200;
}

__attribute__((noipa)) void app_bump(struct item *item)
{
	bumped += item->number;
}

/* It looks at its return address, so its returns are met at its `ret`. */
__attribute__((noipa)) int app_caller(struct item *item)
{
	return __builtin_return_address(0) ? 200 : item->number;
}

/* app_rule with marks in all that a call must leave alone. */
static int kept(struct item *item, int *same)
{
	long result, ok;

	__asm__ volatile("push %%rbx; push %%rbp\n\t"
			 "mov %%rsp, %%r12\n\t"
			 "and $-16, %%rsp\n\t"
			 "mov $0x1b, %%ebx; mov $0x1c, %%ebp; mov $0x1d, %%r13d; mov $0x1e, %%r14d\n\t"
			 "mov %%rsp, %%r15\n\t"
			 "call *%[f]\n\t"
			 "xor %%edx, %%edx\n\t"
			 "cmp %%rsp, %%r15; jne 1f\n\t"
			 "cmp $0x1b, %%rbx; jne 1f\n\t"
			 "cmp $0x1c, %%rbp; jne 1f\n\t"
			 "cmp $0x1d, %%r13; jne 1f\n\t"
			 "cmp $0x1e, %%r14; jne 1f\n\t"
			 "inc %%edx\n\t"
			 "1: mov %%r12, %%rsp; pop %%rbp; pop %%rbx\n\t"
			 : "=a"(result), "=&d"(ok)
			 : "D"(item), [f] "r"(app_rule)
			 : "rcx", "rsi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory",
			   "cc");
	*same += ok;
	return result;
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 1, ran = 0, same = 0;
	long rules = 0, callers = 0;

	if (argc > 2 && (puts("waits") < 0 || fflush(stdout) || getchar() < 0))
		return 1;
	for (int i = 0; i < rounds; i++) {
		struct item item = { i, 0 };

		rules += kept(&item, &same);
		app_bump(&item);
		callers += app_caller(&item);
		ran += item.ran;
	}
	printf("%ld %d %ld %ld %d\n", rules, ran, bumped, callers, same);
	return 0;
}
