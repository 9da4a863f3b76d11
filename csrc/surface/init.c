/* Constructor: passive and silent. A setuid or setcap program (AT_SECURE) is left alone. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>

#include "agent.h"
#include "clock.h"
#include "surface.h"

static void forked(void)
{
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

__attribute__((destructor)) static void finish(void)
{
	agent_clock_last();
}

__attribute__((constructor)) static void start(void)
{
	struct agent_host host = {
		.sysinfo_ehdr = getauxval(AT_SYSINFO_EHDR),
		.hwcap2 = getauxval(AT_HWCAP2),
		.runtime_dir = surface_variable("XDG_RUNTIME_DIR"),
		.execfn = preloaded() ? (const char *)getauxval(AT_EXECFN) : NULL,
	};

	if (getauxval(AT_SECURE)) {
		surface.secure = 1;
		return;
	}
	surface.asking = !strcmp(surface_variable("LIBBPF_SHIM_QUICK_READS") ?: "", "0");
	surface_mmap_start();
	surface_follow();
	agent_mutes = surface_leave_environment;
	pthread_atfork(NULL, NULL, forked);
	agent_start(&host);
}
