/*
 * mapped LIBRARY: obeys lines on stdin, and answers each with "COMMAND CALLS": how often the library's
 * plug_work() has been called so far.
 *	open, close	dlopen, dlclose
 *	map		maps the file itself, as a loader of its own would
 *	over		maps it once more in the place of that
 *	call		calls what there is
 */
#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#ifndef NO_DLOPEN
#include <dlfcn.h>

static void *library;
#endif

typedef long (*work)(long);

static const char *path;
static work opened, mapped;
static char *image;

/* The file as it lies there: its program headers, and where a symbol is. */
static unsigned long value(const char *file, const char *name)
{
	const Elf64_Ehdr *head = (const void *)file;
	const Elf64_Shdr *sections = (const void *)(file + head->e_shoff);

	for (int i = 0; i < head->e_shnum; i++) {
		const Elf64_Sym *symbols = (const void *)(file + sections[i].sh_offset);
		const char *names = file + sections[sections[i].sh_link].sh_offset;

		if (sections[i].sh_type != SHT_DYNSYM)
			continue;
		for (unsigned long k = 0; k < sections[i].sh_size / sizeof(*symbols); k++)
			if (!strcmp(names + symbols[k].st_name, name))
				return symbols[k].st_value;
	}
	abort();
}

static void map(int over)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st))
		abort();
	const char *file = mmap(NULL, st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	const Elf64_Ehdr *head = (const void *)file;
	const Elf64_Phdr *part = (const void *)(file + head->e_phoff);

	if (!over)
		image = mmap(NULL, 1 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (int i = 0; i < head->e_phnum; i++) {
		unsigned long in = part[i].p_vaddr & 4095;
		int prot = part[i].p_flags & PF_X ? PROT_READ | PROT_EXEC : PROT_READ;

		if (part[i].p_type == PT_LOAD &&
		    mmap(image + part[i].p_vaddr - in, part[i].p_filesz + in, prot,
			 MAP_PRIVATE | MAP_FIXED, fd, part[i].p_offset - in) == MAP_FAILED)
			abort();
	}
	mapped = (work)(image + value(file, "plug_work"));
	munmap((void *)file, st.st_size);
	close(fd);
}

int main(int argc, char **argv)
{
	long calls = 0;
	char line[64];

	path = argv[argc - 1];
	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("ready");
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		if (!strcmp(line, "map") || !strcmp(line, "over"))
			map(line[0] == 'o');
#ifndef NO_DLOPEN
		if (!strcmp(line, "open")) {
			library = dlopen(path, RTLD_NOW);
			opened = library ? (work)dlsym(library, "plug_work") : NULL;
		}
		if (!strcmp(line, "close")) {
			opened = NULL;
			dlclose(library);
		}
#endif
		if (!strcmp(line, "call")) {
			calls += (opened && opened(calls)) + (mapped && mapped(calls));
		}
		printf("%s %ld\n", line, calls);
	}
	return 0;
}
