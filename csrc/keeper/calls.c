/* System calls: with the last link to one of them the jumps in a process's modules go (shim_calls). */
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "keeper.h"

enum { MAX_WINDOWS = 65536 };

static struct shim_call_window windows[MAX_WINDOWS];

static int is_call(u64 addr)
{
	u64 event = addr - SHIM_EVENT_ADDR;

	if (addr < SHIM_EVENT_ADDR || event == SHIM_EVENT_SCHED_EXEC)
		return 0;
	return event <= SHIM_LAST_OF_CALLS ||
	       (event >= SHIM_EVENT_FUNC && event < SHIM_EVENT_FUNC + SHIM_MAX_SYSCALLS);
}

/* 1 restored, 0 left alone: not our jump, or its module is gone. */
static int restore(struct kp_target *t, u64 at, const struct shim_call_window *w)
{
	u8 now[sizeof(w->patch)];
	int err;

	if (!w->len || w->len > sizeof(w->patch))
		return 0;
	err = kp_pages_read(t, at, now, w->len);
	if (err)
		return err == -EFAULT ? 0 : err;
	if (memcmp(now, w->patch, w->len))
		return 0;
	err = kp_pages_write(t, at, w->orig, w->len);
	return err ? err : 1;
}

static int restore_region(struct kp_target *t, u64 at)
{
	struct shim_calls head;
	int err = kp_read(t, at, &head, sizeof(head)), put, done = 0;
	u32 i;

	if (!err && (head.magic != SHIM_CALLS_MAGIC || head.nr > MAX_WINDOWS))
		err = -EPROTO;
	if (!err)
		err = kp_read(t, at + head.table, windows, head.nr * sizeof(windows[0]));
	kp_pages_begin();
	for (i = 0; i < head.nr && !err; i++) {
		int ret = restore(t, at + (u64)(s64)windows[i].at, &windows[i]);

		if (ret < 0)
			err = ret;
		else
			done += ret;
	}
	put = kp_pages_end(t);
	err = err ? err : put;
	return err ? err : done;
}

int kp_restore_calls(struct kp_target *t, u64 root_at, const struct shim_agent *root,
		     const struct shim_site *sites)
{
	int done = 0;
	u32 i;

	for (i = 0; i < root->nr_sites; i++)
		if (sites[i].first && is_call(sites[i].addr))
			return 0;
	for (i = 0; i < root->nr_sites; i++) /* where signals are watched */
		if (sites[i].flags & SHIM_SITE_TRAP && (sites[i].first || sites[i].patched))
			return 0;
	for (i = 0; i < SHIM_MAX_CALLS; i++) {
		u64 flag = root_at + offsetof(struct shim_agent, calls) + i * sizeof(root->calls[0]) +
			   offsetof(struct shim_call_region, patched);
		const u32 no = 0;
		int ret;

		if (!root->calls[i].at || !root->calls[i].patched)
			continue;
		ret = restore_region(t, root->calls[i].at);
		if (ret >= 0) {
			done += ret;
			ret = kp_write(t, flag, &no, sizeof(no));
		}
		if (ret < 0 && ret != -EFAULT)
			return ret;
	}
	return done;
}
