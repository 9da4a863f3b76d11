/* Formats of bpf_trace_printk(), bpf_trace_vprintk(), bpf_snprintf(). */
#ifndef SHIM_FORMAT_H
#define SHIM_FORMAT_H

#include "runtime.h"

/* Writes at most room bytes, NUL included. The length of the whole, without the NUL; -EINVAL: no format
 * that the kernel knows, or more conversions than arguments (then nothing is written). size: of fmt, in
 * which a NUL must be. */
enum { FORMAT_ARGS = 12 };
long format_text(char *out, u64 room, const char *fmt, u64 size, const u64 *args, u32 nr);

#endif
