/* Raw system calls for freestanding code: result or negative errno, errno untouched. */
#ifndef SHIM_SYS_H
#define SHIM_SYS_H

#include "shim_types.h"

static inline long shim_sys6(long nr, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}

#define shim_sys0(nr) shim_sys6(nr, 0, 0, 0, 0, 0, 0)
#define shim_sys1(nr, a) shim_sys6(nr, (long)(a), 0, 0, 0, 0, 0)
#define shim_sys2(nr, a, b) shim_sys6(nr, (long)(a), (long)(b), 0, 0, 0, 0)
#define shim_sys3(nr, a, b, c) shim_sys6(nr, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define shim_sys4(nr, a, b, c, d) shim_sys6(nr, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define shim_sys5(nr, a, b, c, d, e) \
	shim_sys6(nr, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)

#endif
