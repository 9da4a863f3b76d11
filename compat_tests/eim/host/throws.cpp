/* An application of C++ whose function, which programs call, throws (throws 1) or walks the stack
 * (throws 2). It prints what its own frames have seen of it. "wait": it begins when its standard input
 * ends. */
#include <cstdio>
#include <cstdlib>
#include <execinfo.h>
#include <stdexcept>

struct request {
	int number;
	int status;
	long tokens;
};
static int what;
static int seen;

extern "C" {
__attribute__((noipa)) long spoil(long n)
{
	void *at[64];

	if (what == 1)
		throw std::runtime_error("thrown");
	seen = backtrace(at, 64);
	return n + 1;
}

__attribute__((noipa)) int app_handle(struct request *r)
{
	if (r->status < 0)
		throw 1;
	return r->status;
}
}

struct guard {
	long *n;
	~guard()
	{
		++*n;
	}
};

/* Its frame is gone through, with values in all registers that a callee keeps. */
__attribute__((noipa)) long middle(struct request *r, long *destroyed, long a, long b, long c)
{
	guard g{ destroyed };
	long x = 0;

	try {
		for (long i = 0; i < 2; i++)
			x += app_handle(r) + a * i + b + c;
	} catch (const int &) {
		x = -1;
	}
	return x + a + b + c;
}

int main(int argc, char **argv)
{
	struct request r = { 1, 200, 0 };
	long destroyed = 0, caught = 0, sum = 0;
	void *at[64];

	what = atoi(argv[1]);
	while (argc > 2 && getchar() != EOF)
		;
	for (int i = 0; i < 5; i++) {
		try {
			sum += middle(&r, &destroyed, i, 2 * i, 3 * i);
		} catch (const std::exception &) {
			caught += i;
		}
	}
	/* the walk ends where one of main's does, three frames further in at least */
	printf("destroyed %ld caught %ld sum %ld seen %d\n", destroyed, caught, sum,
	       seen ? seen - backtrace(at, 64) : 0);
	return 0;
}
