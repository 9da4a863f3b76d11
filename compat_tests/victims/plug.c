/* libplug.so: found only by dlopen(3). */
__attribute__((noinline, visibility("default"))) long plug_work(long x);

long plug_work(long x)
{
	return x + 100;
}
