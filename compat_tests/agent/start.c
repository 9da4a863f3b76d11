/* The surface's constructor, for a library of agent and runtime alone. */
#include <pthread.h>
#include <stdlib.h>
#include <sys/auxv.h>

#include "agent.h"

static void forked(void)
{
	agent_forked();
}

__attribute__((constructor)) static void start(void)
{
	struct agent_host host = {
		.sysinfo_ehdr = getauxval(AT_SYSINFO_EHDR),
		.hwcap2 = getauxval(AT_HWCAP2),
		.runtime_dir = getenv("XDG_RUNTIME_DIR"),
	};

	if (getauxval(AT_SECURE))
		return;
	pthread_atfork(NULL, NULL, forked);
	agent_start(&host);
}

/* For tests of agent_run_prog: victims find it by dlsym. */
__attribute__((visibility("default"))) long test_run_prog(u32 session, u32 prog, u64 *retval)
{
	struct agent_run what = { session, prog, SHIM_NO_VCPU, 1, 0, NULL };

	return agent_run_prog(&what, NULL, retval);
}
