/*
 * Programs of Go that are linked to libc make system calls without it all the same: by bpf(2) of their own,
 * and where a libbpf in them makes it, by what belongs to it (limits, files, events). Nobody here would hear of
 * those. `bpf-shim run` has them answered from outside; it looks once more whether it is a loader
 * (libbpf_shim/cli/asks.py), and says by LIBBPF_SHIM_SERVED that it was asked.
 */
#include <alloca.h>
#include <elf.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "surface.h"

extern char **environ;

enum { GO_BUILDID = 4, EAX = 0xb8, EDI = 0xbf }; /* NT_GO_BUILDID; mov r32, imm32 */

static const char code[] = "import sys; sys.path.insert(0, sys.argv.pop(1)); "
			   "from libbpf_shim.cli import main; sys.exit(main())";

/* The linker of Go puts its name into each program. */
static bool of_go(const u8 *at, const u8 *end)
{
	while (end - at > (long)sizeof(Elf64_Nhdr)) {
		const Elf64_Nhdr *note = (const void *)at;

		if (note->n_type == GO_BUILDID && note->n_namesz == 4 && !memcmp(note + 1, "Go\0", 4))
			return true;
		at += sizeof(*note) + ((note->n_namesz + 3) & ~3U) + ((note->n_descsz + 3) & ~3U);
	}
	return false;
}

/* An instruction has bpf(2)'s number in it, as Go's or libc's first argument. */
static bool makes_it(const u8 *text, const u8 *end)
{
	static const u8 number[] = { 321 & 0xff, 321 >> 8, 0, 0 };

	while ((text = memmem(text + 1, (size_t)(end - text - 1), number, sizeof(number))))
		if (text[-1] == EAX || text[-1] == EDI)
			return true;
	return false;
}

static bool needs_libbpf(const Elf64_Dyn *dyn)
{
	const char *names = NULL;

	for (const Elf64_Dyn *d = dyn; d->d_tag; d++)
		if (d->d_tag == DT_STRTAB)
			names = (const char *)d->d_un.d_ptr;
	for (; names && dyn->d_tag; dyn++)
		if (dyn->d_tag == DT_NEEDED && !strncmp(names + dyn->d_un.d_val, "libbpf.so", 9))
			return true;
	return false;
}

static bool may_load(void)
{
	const Elf64_Phdr *rows = (const void *)getauxval(AT_PHDR), *row;
	u64 count = getauxval(AT_PHNUM), bias = 0;
	bool go = false, makes = false;

	for (row = rows; rows && row < rows + count; row++)
		if (row->p_type == PT_PHDR)
			bias = (u64)rows - row->p_vaddr;
	for (row = rows; rows && row < rows + count; row++)
		if (row->p_type == PT_NOTE)
			go |= of_go((u8 *)(bias + row->p_vaddr),
				    (u8 *)(bias + row->p_vaddr + row->p_filesz));
	for (row = rows; go && !makes && row < rows + count; row++)
		if (row->p_type == PT_DYNAMIC)
			makes = needs_libbpf((const void *)(bias + row->p_vaddr));
		else if (row->p_type == PT_LOAD && row->p_flags & PF_X)
			makes = makes_it((u8 *)(bias + row->p_vaddr),
					 (u8 *)(bias + row->p_vaddr + row->p_filesz));
	return makes;
}

void surface_outside(int argc, char **argv)
{
	char path[SURFACE_PATH], **to;
	struct surface_conf conf;
	int n = 0;
	long size;

	if (!may_load() || surface_conf(&conf, path, sizeof(path)))
		return;
	size = shim_sys3(SYS_readlink, "/proc/self/exe", path, sizeof(path) - 1);
	if (size <= 0)
		return;
	path[size] = 0;
	if (shim_sys2(SYS_access, path, X_OK) || shim_sys2(SYS_access, conf.interp, X_OK))
		return;
	to = alloca((size_t)(argc + 10) * sizeof(*to));
	to[n++] = conf.interp;
	to[n++] = "-I";
	to[n++] = "-c";
	to[n++] = (char *)code;
	to[n++] = conf.root;
	to[n++] = "run";
	to[n++] = "--program";
	to[n++] = path;
	to[n++] = "--";
	memcpy(to + n, argv, (size_t)(argc + 1) * sizeof(*to));
	surface_leave_environment(); /* in that one it would answer what is asked of who serves */
	shim_sys3(SYS_execve, conf.interp, to, environ);
}
