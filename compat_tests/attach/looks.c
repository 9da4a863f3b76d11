/*
 * As a JVM does: code of its own calls a library, which finds out by the return address on the
 * stack who that was. LIBRARY: the library itself; else ARGUMENTS: it, how often. Prints how often
 * it was found.
 */
#ifdef LIBRARY
long entered(void **sp, void *lo, void *hi);

long entered(void **sp, void *lo, void *hi)
{
	void *volatile *from = sp;

	return from[-1] >= lo && from[-1] < hi;
}
#else
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

__asm__(".text\n.globl made, made_end\n.type made, @function\n"
	"made:\n\tpush %rbx\n\tmov %rdi, %rax\n\tmov %rsp, %rdi\n\tcall *%rax\n\tpop %rbx\n\tret\n"
	"made_end:\n.size made, . - made\n");
long made(void *function, void *lo, void *hi);
extern char made_end[];

int main(int argc, char **argv)
{
	void *library = argc > 2 ? dlopen(argv[1], RTLD_NOW) : NULL;
	void *function = library ? dlsym(library, "entered") : NULL;
	long found = 0;

	if (!function)
		return 2;
	for (int n = atoi(argv[2]); n > 0; n--)
		found += made(function, (void *)made, made_end);
	printf("%ld\n", found);
	return 0;
}
#endif
