/*
 * The agent as an image of its own (_lib/agent.so): what stands in for the constructor where the
 * keeper has mapped it into a running process. No system call, nothing mapped: all that happens
 * when a session comes.
 */
#include "state.h"

extern const u8 __ehdr_start[] __attribute__((visibility("hidden")));
extern const u8 _end[] __attribute__((visibility("hidden")));

u64 agent_image_init(u64 sysinfo_ehdr, u64 hwcap2, const char *run_dir);

/* run_dir: where sessions of this user are, "" if unknown. Returns the address of the root. */
u64 agent_image_init(u64 sysinfo_ehdr, u64 hwcap2, const char *run_dir)
{
	struct agent_private *p = &agent_private;
	u32 len = 0;

	p->sysinfo_ehdr = sysinfo_ehdr;
	p->fsgsbase = hwcap2 >> 1 & 1;
	p->euid = (u32)shim_sys0(NR_GETEUID);
	agent_append(p->run_dir[0], sizeof(p->run_dir[0]), &len, run_dir);
	if (len >= sizeof(p->run_dir[0]))
		p->run_dir[0][0] = 0; /* its sockets could not be named either */
	/* Nobody interposes vfork() here, so that every hit has to ask who it is. */
	agent_vforks = 1;
	shim_agent_root.image = (u64)__ehdr_start;
	shim_agent_root.image_size = ((u64)_end - (u64)__ehdr_start + AGENT_PAGE - 1) & -AGENT_PAGE;
	shim_agent_root.service_frame = (u64)&agent_service_frame;
	shim_agent_root.service_entry = (u64)agent_service_entry;
	return (u64)&shim_agent_root;
}
