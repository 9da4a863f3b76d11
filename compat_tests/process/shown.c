/*
 * shown: a static program that makes each system call which names files by its own number, below the places that
 * loaders are shown: bpffs, where it pins a map, tracefs, and the type of the probes' PMU; and what /proc says of the
 * map. Prints a line a step: its name, and an errno or what was told.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/stat.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#define HERE "/sys/fs/bpf/shown"
#define CALL(nr, ...) (syscall(nr, __VA_ARGS__) < 0 ? errno : 0)

static void say(const char *what, long value)
{
	printf("%s %lx\n", what, value);
}

static int map(void)
{
	union bpf_attr attr = {
		.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 8, .max_entries = 1
	};

	return (int)syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof(attr));
}

static long pin(int cmd, const char *path, int fd)
{
	union bpf_attr attr = { .pathname = (uintptr_t)path, .bpf_fd = (unsigned int)fd };

	return syscall(SYS_bpf, cmd, &attr, sizeof(attr)) < 0 ? errno : 0;
}

static void type_of_file_system(const char *path)
{
	struct statfs fs = { 0 };
	int err = CALL(SYS_statfs, path, &fs);

	printf("%s ", path);
	say("is of", err ? err : (long)fs.f_type);
}

/* Of a word of a descriptor's fdinfo: what stands behind it. */
static long fdinfo(const char *pid, int fd, const char *word)
{
	char path[64], text[1024] = "", *at;

	snprintf(path, sizeof(path), "/proc/%s/fdinfo/%d", pid, fd);
	fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (read(fd, text, sizeof(text) - 1) < 0)
		return -errno;
	close(fd);
	at = strstr(text, word);
	return at ? atol(at + strlen(word)) : -1;
}

int main(void)
{
	char own[16];
	struct statx told;
	struct stat st;
	int fd = map();

	snprintf(own, sizeof(own), "%d", getpid());
	say("map's type by fdinfo", fdinfo("self", fd, "map_type:"));
	say("max_entries", fdinfo(own, fd, "max_entries:"));
	say("of no map", fdinfo("self", 0, "map_type:"));
	say("of nothing", fdinfo("self", 999, "map_type:"));
	type_of_file_system("/sys/fs/bpf");
	type_of_file_system("/sys/kernel/tracing");
	type_of_file_system("/sys/kernel/tracing/events");
	say("mkdir", CALL(SYS_mkdir, HERE, 0700));
	say("mkdir again", CALL(SYS_mkdir, HERE, 0700));
	type_of_file_system(HERE);
	say("mkdirat", CALL(SYS_mkdirat, AT_FDCWD, HERE "/in", 0750));
	say("a name with a dot", CALL(SYS_mkdirat, AT_FDCWD, HERE "/a.b", 0700));
	say("pin", pin(BPF_OBJ_PIN, HERE "/map", fd));
	say("open", CALL(SYS_open, HERE "/map", O_RDONLY));
	say("openat, nothing", CALL(SYS_openat, AT_FDCWD, HERE "/none", O_RDONLY));
	say("stat", CALL(SYS_stat, HERE "/map", &st));
	say("kind", S_ISREG(st.st_mode));
	say("lstat", CALL(SYS_lstat, HERE, &st));
	say("kind", S_ISDIR(st.st_mode));
	say("newfstatat", CALL(SYS_newfstatat, AT_FDCWD, HERE "/none", &st, AT_SYMLINK_NOFOLLOW));
	say("statx", CALL(SYS_statx, AT_FDCWD, HERE "/in", 0, STATX_MODE, &told));
	say("mode", told.stx_mode & 0777);
	say("no place for it", CALL(SYS_stat, HERE "/map", 8L));
	say("chmod", CALL(SYS_chmod, HERE "/in", 0500));
	say("stat", CALL(SYS_stat, HERE "/in", &st));
	say("mode", st.st_mode & 0777);
	say("fchmodat", CALL(SYS_fchmodat, AT_FDCWD, HERE "/in", 0700));
	say("access", CALL(SYS_access, HERE "/map", R_OK | W_OK));
	say("faccessat", CALL(SYS_faccessat, AT_FDCWD, HERE "/none", F_OK));
	say("faccessat2", CALL(SYS_faccessat2, AT_FDCWD, HERE "/map", F_OK, AT_EACCESS));
	say("rename", CALL(SYS_rename, HERE "/map", HERE "/moved"));
	say("renameat", CALL(SYS_renameat, AT_FDCWD, HERE "/moved", AT_FDCWD, HERE "/in/moved"));
	say("renameat2", CALL(SYS_renameat2, AT_FDCWD, HERE "/in/moved", AT_FDCWD, HERE "/in", 1));
	say("to elsewhere", CALL(SYS_rename, HERE "/in/moved", "/tmp/shown"));
	say("from elsewhere", CALL(SYS_rename, "/dev/null", HERE "/null"));
	say("get", pin(BPF_OBJ_GET, HERE "/in/moved", 0));
	say("rmdir, not empty", CALL(SYS_rmdir, HERE "/in"));
	say("unlink", CALL(SYS_unlink, HERE "/in/moved"));
	say("gone", pin(BPF_OBJ_GET, HERE "/in/moved", 0));
	say("unlinkat", CALL(SYS_unlinkat, AT_FDCWD, HERE "/in", AT_REMOVEDIR));
	say("rmdir", CALL(SYS_rmdir, HERE));
	say("lstat", CALL(SYS_lstat, HERE, &st));
	say("tracefs", CALL(SYS_stat, "/sys/kernel/tracing/events/raw_syscalls/sys_enter/id", &st));
	say("no event", CALL(SYS_stat, "/sys/kernel/tracing/events/raw_syscalls/none/id", &st));
	say("pmu", CALL(SYS_access, "/sys/bus/event_source/devices/uprobe/type", R_OK));
	say("not shown", CALL(SYS_stat, "/sys/none", &st));
	say("nowhere", CALL(SYS_stat, 8L, &st));
	return 0;
}
