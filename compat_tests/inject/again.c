/*
 * Maps the page of its function once more, as V8 does with its builtins, and calls it in both places.
 * Says "ready", then for each line of stdin how often it was called in all.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096ul

__asm__(".section .twice, \"ax\", @progbits\n.balign 4096\n.globl twice\n.type twice, @function\n"
	"twice:\tlea 1(%rdi), %rax\n\txor %edx, %edx\n\tret\n.size twice, . - twice\n"
	".balign 4096\n.text\n");

long twice(long);

/* Where the file's byte that is mapped at `addr` lies in the file. */
static unsigned long offset_of(unsigned long addr)
{
	unsigned long lo, hi, offset, found = 0;
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[512];

	while (maps && fgets(line, sizeof(line), maps))
		if (sscanf(line, "%lx-%lx %*s %lx", &lo, &hi, &offset) == 3 && lo <= addr && addr < hi)
			found = offset + (addr - lo);
	return found;
}

int main(void)
{
	int file = open("/proc/self/exe", O_RDONLY);
	unsigned long at = (unsigned long)&twice, calls = 0;
	long (*copy)(long) = (long (*)(long))mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE, file,
						  (long)offset_of(at & -PAGE));
	long (*original)(long) = twice;
	char line[16];

	close(file);
	if (copy == (long (*)(long))MAP_FAILED)
		return 1;
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		for (long i = 0; i < 7; i++, calls++)
			if ((i % 3 ? copy : original)(i) != i + 1)
				return 2;
		printf("%lu\n", calls);
		fflush(stdout);
	}
	return 0;
}
