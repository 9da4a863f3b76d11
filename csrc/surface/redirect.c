/*
 * Paths that a loader reads and an unprivileged user, a container or a small kernel lacks.
 *
 * The real path comes first: only when it cannot be had is another file looked at, so that a
 * process which can read the real one notices nothing. Exception: the possible CPUs, which in a
 * session are the virtual ones.
 */
#include <string.h>

#include "surface.h"

/* From the most special to the least. 'to' is relative to the library's directory. */
static const struct {
	const char *from, *to;
	bool whole; /* the very path; else a prefix that ends at a '/' or at the end */
} rules[] = {
	{ "/sys/kernel/debug/tracing", "/tracefs", false },
	{ "/sys/kernel/tracing", "/tracefs", false },
	{ "/sys/bus/event_source/devices/uprobe", "/sysfs/uprobe", false },
	{ "/sys/kernel/btf/vmlinux", "/vmlinux.btf", true },
};

const char *surface_redirect(const char *path, char *buf, int err)
{
	if (err != ENOENT && err != EACCES && err != EPERM && err != ENOTDIR)
		return NULL;
	if (strncmp(path, "/sys/", 5))
		return NULL;
	for (u32 i = 0; i < array_size(rules); i++) {
		size_t n = strlen(rules[i].from);

		if (strncmp(path, rules[i].from, n) || (path[n] && (path[n] != '/' || rules[i].whole)))
			continue;
		if (!surface_home()[0])
			return NULL;
		return surface_join(buf, SURFACE_PATH, surface_home(), rules[i].to, path + n);
	}
	return NULL;
}

const char *surface_override(const char *path, char *buf)
{
	static const char prefix[] = "/sys/devices/system/cpu/";
	char head[40];

	if (likely(!surface.started))
		return NULL;
	if (shim_strncpy_from(head, (u64)path, sizeof(head)) < 0)
		return NULL;
	if (strncmp(head, prefix, sizeof(prefix) - 1))
		return NULL;
	if (!strcmp(head + sizeof(prefix) - 1, "possible"))
		return surface_join(buf, SURFACE_PATH, surface.dir, "/cpu_possible", "");
	if (!strcmp(head + sizeof(prefix) - 1, "online"))
		return surface_join(buf, SURFACE_PATH, surface.dir, "/cpu_online", "");
	return NULL;
}
