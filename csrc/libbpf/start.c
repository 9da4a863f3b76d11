/*
 * What the relinked libbpf.so.1 has beside libbpf: libc's `stderr` under a name of its own (libbpf.a
 * is position independent but for that one reference), and children that become targets, as those
 * of a preloaded loader do.
 */
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>

extern FILE *shim_libbpf_stderr;
FILE *shim_libbpf_stderr;

/* The path of libbpf_shim.so beside this library; false: LD_PRELOAD cannot name it. */
static int beside(char *out, size_t size)
{
	static const char name[] = "libbpf_shim.so";
	char *slash;
	Dl_info info;

	if (!dladdr((void *)&shim_libbpf_stderr, &info) || !info.dli_fname ||
	    strlen(info.dli_fname) + sizeof(name) > size)
		return 0;
	strcpy(out, info.dli_fname);
	slash = strrchr(out, '/');
	if (!slash || out[0] != '/' || strpbrk(out, " :"))
		return 0;
	strcpy(slash + 1, name);
	return 1;
}

__attribute__((constructor)) static void start(void)
{
	char path[PATH_MAX], value[2 * PATH_MAX];
	const char *before = getenv("LD_PRELOAD");

	shim_libbpf_stderr = stderr;
	if (getauxval(AT_SECURE) || !beside(path, sizeof(path)))
		return;
	if (!before || !*before) {
		setenv("LD_PRELOAD", path, 1);
	} else if (!strstr(before, path)) {
		int n = snprintf(value, sizeof(value), "%s:%s", path, before);

		if (n > 0 && (size_t)n < sizeof(value))
			setenv("LD_PRELOAD", value, 1);
	}
}
