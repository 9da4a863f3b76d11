/*
 * Fixed-width types for code that includes nothing of the system: the agent, the
 * runtime, and cffi, which reads these headers after `gcc -E -P -DSHIM_CDEF`.
 * Constants are enumerators, not macros, so that Python sees them too.
 */
#ifndef SHIM_TYPES_H
#define SHIM_TYPES_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed char s8;
typedef short s16;
typedef int s32;
typedef long long s64;

#ifdef SHIM_CDEF
#define SHIM_ASSERT(cond)
#else
#define SHIM_ASSERT(cond) _Static_assert(cond, #cond)
#endif

#endif
