/*
 * backtrace() and _Unwind_Backtrace() show the program's frames, and none of ours: the frames of
 * return slots (csrc/agent/slots.S), of runs that were interrupted, and of these functions.
 *
 * May be called in signal handlers, as the real ones may once they have been used.
 */
#include <execinfo.h>
#include <unwind.h>

#include "surface.h"

enum { OURS = 72, MOST = 1024 }; /* frames: of ours beside a program's; of a copy on the stack */

extern const char __ehdr_start[] __attribute__((visibility("hidden")));
extern const char _end[] __attribute__((visibility("hidden")));

static int is_ours(const void *at)
{
	return (const char *)at >= __ehdr_start && (const char *)at < _end;
}

/* Without ours, at most 'room' of them; how many. */
static int filter(void **to, int room, void *const *from, int n)
{
	int kept = 0;

	for (int i = 0; i < n && kept < room; i++)
		if (!is_ours(from[i]))
			to[kept++] = from[i];
	return kept;
}

EXPORT int backtrace(void **at, int room)
{
	if (room <= 0)
		return REAL(backtrace)(at, room);
	if (room > MOST) /* the program may see fewer than it asked for, of more than a thousand */
		return filter(at, room, at, REAL(backtrace)(at, room));

	void *all[room + OURS];

	return filter(at, room, all, REAL(backtrace)(all, room + OURS));
}

struct trace {
	_Unwind_Trace_Fn fn;
	void *arg;
};

static _Unwind_Reason_Code one(struct _Unwind_Context *context, void *arg)
{
	const struct trace *trace = arg;

	if (is_ours((void *)REAL(_Unwind_GetIP)(context)))
		return _URC_NO_REASON;
	return trace->fn(context, trace->arg);
}

EXPORT _Unwind_Reason_Code _Unwind_Backtrace(_Unwind_Trace_Fn fn, void *arg)
{
	struct trace trace = { fn, arg };

	return REAL(_Unwind_Backtrace)(one, &trace);
}
