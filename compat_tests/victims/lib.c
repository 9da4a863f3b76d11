/* libvictim.so: a library function with an argument and a return value. */
__attribute__((noinline, visibility("default"))) long lib_work(long x);

long lib_work(long x)
{
	return x * 7;
}
