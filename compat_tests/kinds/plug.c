/* A library with a probe and its semaphore. */
#include "usdt.h"

SEMAPHORE(plug);
static volatile long fired;

__attribute__((noipa, visibility("default"))) void p_fire(long a)
{
	PROBE1(plug, "p_fire_at", a);
	fired += a;
}
