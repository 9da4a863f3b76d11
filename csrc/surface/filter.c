/* What the process forbids itself by libc, seccomp filters and the time stamp counter: the agent has word
 * first (fence.c). */
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "agent.h"
#include "surface.h"

void surface_filter(u64 nr, u64 a, u64 b, u64 c);

/* syscall() has it called for prctl(2) and seccomp(2) (entry.S). */
void surface_filter(u64 nr, u64 a, u64 b, u64 c)
{
	if (surface.secure)
		return;
	agent_filter_ahead((u32)nr, a, b, c);
}

EXPORT int prctl(int option, ...)
{
	unsigned long a, b, c, d;
	va_list list;

	va_start(list, option);
	a = va_arg(list, unsigned long);
	b = va_arg(list, unsigned long);
	c = va_arg(list, unsigned long);
	d = va_arg(list, unsigned long);
	va_end(list);
	if (option == PR_SET_SECCOMP || option == PR_SET_TSC)
		surface_filter(SYS_prctl, (u64)option, a, b);
	return REAL(prctl)(option, a, b, c, d);
}
