/*
 * Reference counters of probes (USDT semaphores), from outside: one less when the last link of a
 * site that names one goes. The agent's side is csrc/agent/counter.c.
 *
 * The keeper may die at any step, and whoever comes next must neither leave a counter up nor take it
 * down twice: what it is going to be is first put into the link's own record.
 */
#include <string.h>

#include "keeper.h"

/* The site's module is still there: nobody else's memory lies at its addresses. */
static int there(struct kp_target *t, const struct shim_site *s)
{
	u8 now[SHIM_WINDOW_MAX];

	if (!s->window_len || s->window_len > SHIM_WINDOW_MAX ||
	    kp_read(t, s->window, now, s->window_len))
		return 0;
	return !memcmp(now, s->patch, s->window_len) || !memcmp(now, s->orig, s->window_len);
}

int kp_counter_down(struct kp_target *t, const struct shim_site *where, u64 record,
		    const struct shim_site_link *link, int last)
{
	u64 at = record + __builtin_offsetof(struct shim_site_link, counter);
	u64 intent = link->counter, none = 0, counter = intent & SHIM_COUNTER_ADDR;
	int err = 0;
	u16 value;

	if (!counter)
		return 0;
	if ((last || intent & SHIM_COUNTER_TO_BE) && there(t, where) &&
	    !kp_read(t, counter, &value, sizeof(value))) {
		if (intent & SHIM_COUNTER_TO_BE) { /* somebody died at this */
			value = (u16)(intent >> SHIM_COUNTER_SHIFT);
		} else {
			value = value ? (u16)(value - 1) : 0;
			intent |= SHIM_COUNTER_TO_BE | (u64)value << SHIM_COUNTER_SHIFT;
			err = kp_write(t, at, &intent, sizeof(intent));
		}
		if (!err)
			err = kp_write(t, counter, &value, sizeof(value));
	}
	return err ? err : kp_write(t, at, &none, sizeof(none));
}
