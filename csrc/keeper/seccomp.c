/* placeholder */
#include "keeper.h"
int kp_seccomp(struct kp_target *t, char *why, size_t room)
{
	(void)t, (void)why, (void)room;
	return 0;
}
