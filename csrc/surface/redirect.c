/*
 * Paths that a loader reads and an unprivileged user, a container or a small kernel lacks.
 *
 * The real path comes first: only when it cannot be had is another file looked at, so that a
 * process which can read the real one notices nothing. Exceptions: /sys/fs/bpf, which is the
 * session's, the possible CPUs, which are the virtual ones, and the trace pipe.
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
	{ "/sys/bus/event_source/devices/kprobe", "/sysfs/kprobe", false },
	{ "/sys/kernel/debug/kprobes/blacklist", "/debugfs/blacklist", true },
	{ "/sys/kernel/btf/vmlinux", "/vmlinux.btf", true },
};

static const char bpffs[] = "/sys/fs/bpf", cpus[] = "/sys/devices/system/cpu/";

/* What stands behind `prefix` in path: "" or from a '/' on; NULL: another path. */
static const char *behind(const char *path, const char *prefix)
{
	size_t n = strlen(prefix);

	return strncmp(path, prefix, n) || (path[n] && path[n] != '/') ? NULL : path + n;
}

/* A ".." would lead out of the tree, and to another place than it says. */
static bool climbs(const char *path)
{
	for (const char *at = path; (at = strstr(at, "/..")); at += 3)
		if (!at[3] || at[3] == '/')
			return true;
	return false;
}

const char *surface_bpffs(const char *path, char *buf)
{
	const char *rest = behind(path, bpffs);

	if (likely(!rest) || climbs(rest))
		return NULL;
	if (surface_share()[0])
		return surface_join(buf, SURFACE_PATH, surface_share(), "/bpffs", rest);
	return surface.started ? surface_join(buf, SURFACE_PATH, surface.dir, "/bpffs", rest) : NULL;
}

/* Who asks for the possible CPUs makes room for so many values, maybe before the first bpf(2): the
 * session must be there to say how many it shows. */
static void begin(void)
{
	struct rpc r;

	if (!surface.started && !surface.secure && !rpc_begin(&r))
		rpc_end(&r);
}

/* Where tokens are had: the path leads to the file of one, and is opened as a folder. */
static const char *token_bpffs(char *buf)
{
	begin();
	return surface_bpffs(bpffs, buf);
}

/* What stands behind the place of tracefs; NULL: another path. */
static const char *behind_tracefs(const char *path)
{
	const char *rest = NULL;

	for (u32 i = 0; i < array_size(rules) && !rest; i++)
		if (!strcmp(rules[i].to, "/tracefs"))
			rest = behind(path, rules[i].from);
	return rest;
}

bool surface_traces(const char *path)
{
	return behind_tracefs(path) != NULL;
}

static bool is_trace_pipe(const char *path)
{
	const char *rest = behind_tracefs(path);

	return rest && !strcmp(rest, "/trace_pipe");
}

/* Even though the real one exists. */
static const char *instead(const char *path, char *buf)
{
	size_t n = sizeof(cpus) - 1;

	if (is_trace_pipe(path)) {
		begin();
		return surface.started ? surface_join(buf, SURFACE_PATH, surface.dir, "/trace_pipe", "")
				       : NULL;
	}
	if (!strncmp(path, bpffs, sizeof(bpffs) - 1))
		return surface_bpffs(path, buf);
	if (strncmp(path, cpus, n))
		return NULL;
	if (!strcmp(path + n, "possible"))
		begin();
	if (!surface.started)
		return NULL;
	if (!strcmp(path + n, "possible"))
		return surface_join(buf, SURFACE_PATH, surface.dir, "/cpu_possible", "");
	if (!strcmp(path + n, "online"))
		return surface_join(buf, SURFACE_PATH, surface.dir, "/cpu_online", "");
	return NULL;
}

const char *surface_redirect(const char *path, char *buf, int err)
{
	const char *other, *rest;

	if (err == EFAULT || !path)
		return NULL;
	if (unlikely(surface.started) && !err && !strncmp(path, "/proc/", 6))
		return surface_fdinfo(path, buf);
	if (likely(strncmp(path, "/sys/", 5)))
		return err == ENOTDIR && surface_token_path(path) ? token_bpffs(buf) : NULL;
	other = instead(path, buf);
	if (other || (err != ENOENT && err != EACCES && err != EPERM && err != ENOTDIR))
		return other;
	for (u32 i = 0; i < array_size(rules); i++) {
		rest = behind(path, rules[i].from);
		if (!rest || (*rest && rules[i].whole))
			continue;
		if (!surface_home()[0])
			return NULL;
		return surface_join(buf, SURFACE_PATH, surface_home(), rules[i].to, rest);
	}
	return NULL;
}
