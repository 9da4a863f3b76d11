/* clock_gettime by the vDSO, whose address the host hands over, as long as threads may read the counter
 * that it reads (PR_SET_TSC); else the system call. */
#include <elf.h>

#include "runtime.h"

enum { NR_CLOCK_GETTIME = 228, NR_PRCTL = 157, PR_GET_TSC_ = 25 };

struct timespec64 {
	s64 sec, nsec;
};

typedef int (*gettime_fn)(int, struct timespec64 *);
static gettime_fn vdso_gettime;

static bool same(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

/* Symbols of the vDSO: as many as the hash table says. */
static u64 find(const Elf64_Ehdr *e, const Elf64_Dyn *dyn, u64 bias)
{
	const Elf64_Sym *sym = 0;
	const char *str = 0;
	const u32 *hash = 0;

	for (; dyn->d_tag != DT_NULL; dyn++) {
		if (dyn->d_tag == DT_SYMTAB)
			sym = (const void *)(dyn->d_un.d_ptr + bias);
		else if (dyn->d_tag == DT_STRTAB)
			str = (const void *)(dyn->d_un.d_ptr + bias);
		else if (dyn->d_tag == DT_HASH)
			hash = (const void *)(dyn->d_un.d_ptr + bias);
	}
	(void)e;
	if (!sym || !str || !hash)
		return 0;
	for (u32 i = 0; i < hash[1]; i++)
		if (sym[i].st_shndx != SHN_UNDEF && same(str + sym[i].st_name, "__vdso_clock_gettime"))
			return sym[i].st_value + bias;
	return 0;
}

void shim_clock_init(u64 sysinfo_ehdr)
{
	const Elf64_Ehdr *e = (const void *)sysinfo_ehdr;
	const Elf64_Phdr *p = (const void *)(sysinfo_ehdr + (e ? e->e_phoff : 0));
	const Elf64_Dyn *dyn = 0;
	u64 bias = 0;
	bool loaded = false;

	for (u32 i = 0; e && i < e->e_phnum; i++) {
		if (p[i].p_type == PT_LOAD && !loaded) {
			bias = sysinfo_ehdr + p[i].p_offset - p[i].p_vaddr;
			loaded = true;
		} else if (p[i].p_type == PT_DYNAMIC) {
			dyn = (const void *)(sysinfo_ehdr + p[i].p_offset);
		}
	}
	if (loaded && dyn)
		vdso_gettime = (gettime_fn)find(e, dyn, bias);
	shim_clock_look();
}

void shim_clock_look(void)
{
	s32 mode = 0;

	if (shim_sys2(NR_PRCTL, PR_GET_TSC_, &mode) == 0 && mode == SHIM_TSC_FORBIDDEN)
		shim_clock_plain();
}

void shim_clock_plain(void)
{
	__atomic_store_n(&vdso_gettime, 0, __ATOMIC_RELAXED);
}

bool clock_counts(void)
{
	return __atomic_load_n(&vdso_gettime, __ATOMIC_RELAXED);
}

u64 shim_now_ns(void)
{
	return clock_ns(1); /* CLOCK_MONOTONIC */
}

u64 clock_ns(int clock)
{
	gettime_fn gettime = __atomic_load_n(&vdso_gettime, __ATOMIC_RELAXED);
	struct timespec64 t = { 0, 0 };

	if (!gettime || gettime(clock, &t))
		shim_sys2(NR_CLOCK_GETTIME, clock, &t);
	return (u64)t.sec * 1000000000ull + (u64)t.nsec;
}
