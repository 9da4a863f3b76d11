#include "core.h"

extern int LINUX_KERNEL_VERSION __kconfig;
extern bool LINUX_HAS_BPF_COOKIE __kconfig;
extern bool LINUX_HAS_SYSCALL_WRAPPER __kconfig;
extern int CONFIG_HZ __kconfig;
extern enum libbpf_tristate CONFIG_MODULES __kconfig __weak;
extern bool CONFIG_SMP __kconfig;
extern char CONFIG_LOCALVERSION[20] __kconfig;
extern char CONFIG_LETTER __kconfig __weak;
extern long CONFIG_PHYSICAL_START __kconfig;
extern int LINUX_NOSUCH_THING __kconfig __weak;
extern bool CONFIG_WEAK_AND_ABSENT __kconfig __weak;

u64 out[12];

SEC("tracepoint/syscalls/sys_enter_read")
int read_them(void *ctx)
{
	out[0] = LINUX_KERNEL_VERSION;
	out[1] = LINUX_HAS_BPF_COOKIE;
	out[2] = CONFIG_HZ;
	out[3] = CONFIG_MODULES;
	out[4] = CONFIG_SMP;
	out[5] = CONFIG_LOCALVERSION[1];
	out[6] = CONFIG_LETTER;
	out[7] = CONFIG_PHYSICAL_START;
	out[8] = LINUX_NOSUCH_THING;
	out[9] = CONFIG_WEAK_AND_ABSENT;
	out[10] = LINUX_HAS_SYSCALL_WRAPPER;
	return 0;
}
