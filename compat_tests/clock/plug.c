/* A library that is loaded late, without frame pointers. */
long plugged(long (*call)(long), long x);

__attribute__((noinline, noclone)) static long through(long (*call)(long), long x)
{
	volatile char some[512];

	some[x] = 1;
	return call(x) + some[x];
}

long plugged(long (*call)(long), long x)
{
	return through(call, x) * 2;
}
