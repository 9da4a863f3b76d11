/* Constructor: passive and silent. A setuid or setcap program (AT_SECURE) is left alone. */
#include <pthread.h>
#include <stdlib.h>
#include <sys/auxv.h>

#include "agent.h"
#include "surface.h"

static void forked(void)
{
	if (surface.started)
		surface_self(); /* closes what was inherited */
	agent_forked();
}

__attribute__((constructor)) static void start(void)
{
	struct agent_host host = {
		.sysinfo_ehdr = getauxval(AT_SYSINFO_EHDR),
		.hwcap2 = getauxval(AT_HWCAP2),
		.runtime_dir = getenv("XDG_RUNTIME_DIR"),
	};

	if (getauxval(AT_SECURE)) {
		surface.secure = 1;
		return;
	}
	pthread_atfork(NULL, NULL, forked);
	agent_start(&host);
}
