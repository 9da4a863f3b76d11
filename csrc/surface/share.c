/*
 * The place where a user's loaders meet: $RUN/share-XXXXXXXXXXXXXXXX holds `session`, a link to
 * the folder of the session that all of them use, and `bpffs`, what /sys/fs/bpf is to them.
 *
 * Loaders meet only if they see the same files and processes and carry the same library, built
 * once: the name is a hash of all that, its second half of the build alone, so that other builds'
 * places are known (backend/share.py). LIBBPF_SHIM_SESSION=private: this loader meets nobody.
 */
#include <fcntl.h>
#include <linux/un.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>

#include "surface.h"

enum { CONNECT_SECONDS = 5 };
#define FNV_BASIS 0xcbf29ce484222325ULL

static u64 mix(u64 hash, const void *data, size_t size)
{
	const u8 *byte = data;

	for (size_t i = 0; i < size; i++)
		hash = (hash ^ byte[i]) * 0x100000001b3ULL; /* FNV-1a */
	return hash;
}

/* Which file it is; changed: and since when it is as it is. */
static u64 mix_file(u64 hash, const char *path, bool changed)
{
	struct stat st;
	u64 is[4] = { 0 };

	if (!shim_sys2(SYS_stat, path, &st)) {
		is[0] = st.st_dev;
		is[1] = st.st_ino;
		is[2] = changed ? (u64)st.st_mtim.tv_sec : 0;
		is[3] = changed ? (u64)st.st_mtim.tv_nsec : 0;
	}
	return mix(hash, is, sizeof(is));
}

/* Where they are no files of their own file system (gVisor) each process has others. */
static u64 mix_namespace(u64 hash, const char *path)
{
	struct stat st, proc;

	if (!shim_sys2(SYS_stat, path, &st) && !shim_sys2(SYS_stat, "/proc", &proc) &&
	    st.st_dev == proc.st_dev)
		path = "";
	return mix_file(hash, path, false);
}

static void hex(char *out, u64 v)
{
	for (int i = 15; i >= 0; i--, v >>= 4)
		out[i] = "0123456789abcdef"[v & 15];
	out[16] = 0;
}

static u64 folded(u64 v)
{
	return (v ^ v >> 32) & 0xffffffff;
}

static void run_dir(char *out, size_t size)
{
	const char *runtime = surface_variable("XDG_RUNTIME_DIR");
	char number[24];

	if (runtime && runtime[0] == '/')
		surface_join(out, size, runtime, "/libbpf_shim", "");
	else
		surface_join(out, size, "/tmp/libbpf_shim-",
			     surface_decimal(number, (u64)shim_sys0(SYS_getuid)), "");
}

/* Makes the folder if need be. It must be this user's alone, and no symlink (rundir.py). */
static bool own_dir(const char *path)
{
	struct stat st;

	shim_sys2(SYS_mkdir, path, 0700);
	return !shim_sys2(SYS_lstat, path, &st) && S_ISDIR(st.st_mode) &&
	       st.st_uid == (uid_t)shim_sys0(SYS_geteuid) && !(st.st_mode & 077);
}

static void find(char *out, size_t size)
{
	const char *wish = surface_variable("LIBBPF_SHIM_SESSION"),
		   *key = surface_variable("LIBBPF_SHIM_TOKEN_KEY");
	const char *policy = surface_variable("LIBBPF_SHIM_POLICY");
	char run[SURFACE_PATH], name[32] = "/share-", sub[SURFACE_PATH];
	u64 hash = FNV_BASIS, build = FNV_BASIS;
	char version = '0' + SHIM_WIRE_VERSION;

	out[0] = 0;
	if (wish && !strcmp(wish, "private"))
		return;
	hash = mix(hash, surface_home(), strlen(surface_home()) + 1);
	build = mix(build, &version, 1);
	surface_join(sub, sizeof(sub), surface_home(), "/libbpf_shim.so", "");
	build = mix_file(build, sub, true);
	hash = mix_namespace(hash, "/proc/self/ns/mnt");
	hash = mix_namespace(hash, "/proc/self/ns/pid");
	hash = mix_file(hash, "/", false);
	if (key && *key) /* who must show tokens meets the like */
		hash = mix(hash, key, strlen(key) + 1);
	if (policy && *policy) {
		hash = mix(hash, "policy", sizeof("policy"));
		hash = mix(hash, policy, strlen(policy) + 1);
	}
	hex(name + 7, folded(hash) << 32 | folded(build));
	run_dir(run, sizeof(run));
	if (!own_dir(run))
		return;
	surface_join(sub, sizeof(sub), run, name, "");
	if (!own_dir(sub))
		return;
	surface_join(out, size, sub, "", "");
	surface_join(sub, sizeof(sub), out, "/bpffs", "");
	shim_sys2(SYS_mkdir, sub, 0700);
}

static char share[SURFACE_PATH];
static u32 known; /* share was looked for */

const char *surface_share(void)
{
	char found[SURFACE_PATH];

	if (!load_acquire(&known)) {
		find(found, sizeof(found));
		memcpy(share, found, sizeof(share)); /* every thread writes the same */
		store_release(&known, 1);
	}
	return share;
}

void surface_share_leave(void)
{
	store_release(&known, 1);
	share[0] = 0;
}

long surface_connect(const char *folder, const char *socket)
{
	struct timeval patience = { .tv_sec = CONNECT_SECONDS }; /* where its queue is full */
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	long fd, err;

	if (strlen(folder) + strlen(socket) >= sizeof(to.sun_path))
		return -ENAMETOOLONG;
	surface_join(to.sun_path, sizeof(to.sun_path), folder, socket, "");
	fd = shim_sys3(SYS_socket, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return fd;
	shim_sys5(SYS_setsockopt, fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	err = shim_sys3(SYS_connect, fd, &to, sizeof(to));
	if (!err)
		return fd;
	surface_close((int)fd);
	return err;
}

const char *surface_server(void)
{
	const char *path = surface_variable("LIBBPF_SHIM_SERVER");

	return path && *path ? path : NULL;
}

/* Through the link's text: a path that a socket was bound to is never too long. */
long surface_connect_shared(const char *place)
{
	char link[SURFACE_PATH], folder[SURFACE_PATH];
	long n;

	surface_join(link, sizeof(link), place, "/session", "");
	n = shim_sys3(SYS_readlink, link, folder, sizeof(folder) - 1);
	if (n < 0)
		return n;
	folder[n] = 0;
	return surface_connect(folder, "/sock");
}
