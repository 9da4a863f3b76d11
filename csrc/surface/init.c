/* Constructor: passive and silent. A setuid or setcap program (AT_SECURE) is left alone, and one that
 * is served from outside. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>

#include "agent.h"
#include "clock.h"
#include "surface.h"

static void forked(void)
{
	if (surface.unwiped)
		*surface.self = (struct surface_self){ 0 };
	if (surface.started)
		surface_self(); /* closes what was inherited */
	agent_forked();
}

/* This constructor runs before main; where the library is loaded later, it is by dlopen(3). */
static bool preloaded(void)
{
	const char *names = surface_variable("LD_PRELOAD");

	return names && strstr(names, "/libbpf_shim.so");
}

/* glibc says it to debuggers (struct of bits, number, offset); kernels without CONFIG_CHECKPOINT_RESTORE, and
 * gVisor, do not. */
static u64 tid_at(void)
{
	const u32 *said = dlsym(RTLD_DEFAULT, "_thread_db_pthread_tid");

	return said && said[0] == 32 ? said[2] : 0;
}

/* The number of a process that is served; negative: it was asked for, and is not. */
static long said(void)
{
	const char *pid = surface_variable("LIBBPF_SHIM_SERVED");

	return pid ? strtol(pid, NULL, 10) : 0;
}

/* `bpf-shim run` has the system calls of this very process answered by another one, since it makes
 * them itself: no library is asked, and no agent may be here. Its mappings say so to backends
 * (libbpf_shim/attach/target.py). */
static bool served(void)
{
	long fd;

	if (said() != shim_sys0(SYS_getpid))
		return false;
	fd = shim_sys2(SYS_memfd_create, "bpf-served", 1 /* MFD_CLOEXEC */);
	shim_sys6(SYS_mmap, 0, SHIM_PAGE, PROT_NONE, MAP_PRIVATE, fd, 0);
	shim_sys1(SYS_close, fd);
	return true;
}

__attribute__((destructor)) static void finish(void)
{
	agent_clock_last();
}

__attribute__((constructor)) static void start(int argc, char **argv)
{
	struct agent_host host = {
		.sysinfo_ehdr = getauxval(AT_SYSINFO_EHDR),
		.hwcap2 = getauxval(AT_HWCAP2),
		.runtime_dir = surface_variable("XDG_RUNTIME_DIR"),
		.tid_at = tid_at(),
		.execfn = preloaded() ? (const char *)getauxval(AT_EXECFN) : NULL,
	};

	if (getauxval(AT_SECURE) || served()) {
		surface.secure = 1;
		return;
	}
	if (preloaded() && said() != -shim_sys0(SYS_getpid))
		surface_outside(argc, argv);
	surface.asking = !strcmp(surface_variable("LIBBPF_SHIM_QUICK_READS") ?: "", "0");
	surface_mmap_start();
	surface_follow();
	agent_mutes = surface_leave_environment;
	pthread_atfork(NULL, NULL, forked);
	agent_start(&host);
}
