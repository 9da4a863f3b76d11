#include <linux/bpf.h>

/* One function in .text and no other: it is a program then, not a subprogram, of no known type. */
int lonely(void *ctx)
{
	return 3;
}
