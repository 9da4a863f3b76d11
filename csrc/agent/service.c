/* The C half of the self-restoring call; see service.S. */
#include "stays.h"
#include "wire.h"

_Static_assert(sizeof(struct shim_service_frame) == 288, "service.S");
_Static_assert(offsetof(struct shim_service_frame, r15) == 8, "service.S");
_Static_assert(offsetof(struct shim_service_frame, sigmask) == 168, "service.S");

enum { SIG_SETMASK_ = 2, RED_ZONE = 128, COPY_LEN = 168 };

u64 agent_service(struct shim_service_frame *frame);

/* Returns where the registers to resume stand. Signals are blocked from here to the end. */
u64 agent_service(struct shim_service_frame *frame)
{
	u64 all = ~0ull, copy;

	shim_sys4(NR_SIGPROCMASK, SIG_SETMASK_, &all, &frame->sigmask, 8);
	frame->path[sizeof(frame->path) - 1] = 0;
	agent_alone_shut(1);
	agent_pair_begin(frame->path);
	frame->result = (s32)agent_sync(frame->path, frame->reason);
	copy = (frame->sp - RED_ZONE - COPY_LEN) & ~15ull;
	/* a stack that cannot take it (exhausted): resume from the frame itself */
	if (shim_copy_to(copy, &frame->r15, COPY_LEN))
		copy = (u64)&frame->r15;
	agent_pair_end();
	agent_alone_shut(0);
	return copy;
}
