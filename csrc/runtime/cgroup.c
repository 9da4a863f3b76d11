/*
 * Which cgroup a thread is in, as the kernel's files say: the line "0::/path" of
 * /proc/thread-self/cgroup, and the directory of that path below where the cgroup2 hierarchy is
 * mounted by everybody, whose inode number is the cgroup's id. Asked anew each time (about 5 us),
 * since nothing tells when a process is moved.
 */
#include "runtime.h"

enum {
	NR_READ = 0,
	NR_OPEN = 2,
	NR_CLOSE = 3,
	NR_STAT = 4,
	NR_FSTAT = 5,
	NR_STATFS = 137,
	NR_FSTATFS = 138,
	NR_FACCESSAT = 269,
	O_CLOEXEC_ = 02000000
};
enum { CGROUP2_MAGIC = 0x63677270, IS_DIRECTORY = 0040000, KIND = 0170000 };
enum { PATH = 512, LINE = 1024, MOUNT = 24 };

/* struct stat of x86-64; no header for freestanding code has it */
struct stat64 {
	u64 dev, ino, nlink;
	u32 mode, uid, gid, pad;
	u64 rest[15];
};
SHIM_ASSERT(sizeof(struct stat64) == 160);

static bool is_cgroup2(long err, const u64 *statfs)
{
	return !err && statfs[0] == CGROUP2_MAGIC;
}

long cgroup_of_fd(s32 fd)
{
	struct stat64 st;
	u64 fs[15];

	if (!is_cgroup2(shim_sys2(NR_FSTATFS, fd, fs), fs) || shim_sys2(NR_FSTAT, fd, &st) ||
	    (st.mode & KIND) != IS_DIRECTORY)
		return -EBADF;
	/* every cgroup has this file, until it is removed */
	return shim_sys3(NR_FACCESSAT, fd, "cgroup.procs", 0) ? -ENOENT : (long)st.ino;
}

/* A cgroup's directory: mount point and path, whose part behind the mount begins at 'root'. */
struct place {
	char path[PATH];
	u32 root, len;
};

static bool mount_point(struct place *p)
{
	static const char points[][MOUNT] = { "/sys/fs/cgroup", "/sys/fs/cgroup/unified" };
	u64 fs[15];

	for (u32 i = 0; i < sizeof(points) / sizeof(points[0]); i++) {
		memcpy(p->path, points[i], MOUNT);
		if (!is_cgroup2(shim_sys2(NR_STATFS, p->path, fs), fs))
			continue;
		p->root = 0;
		while (points[i][p->root])
			p->root++;
		return true;
	}
	return false;
}

/* The path of the line "0::", which is the last one, without its newline. */
static bool own_path(struct place *p)
{
	char text[LINE];
	long fd = shim_sys3(NR_OPEN, "/proc/thread-self/cgroup", O_CLOEXEC_, 0), n = 0, got, at;

	if (fd < 0)
		return false;
	while (n < LINE && (got = shim_sys3(NR_READ, fd, text + n, LINE - n)) > 0)
		n += got;
	shim_sys1(NR_CLOSE, fd);
	if (n < 5 || text[n - 1] != '\n')
		return false;
	n--;
	for (at = n; at > 0 && text[at - 1] != '\n'; at--)
		;
	if (n - at < 4 || memcmp(text + at, "0::/", 4) || p->root + (n - at) >= PATH)
		return false;
	at += 3;
	memcpy(p->path + p->root, text + at, (u64)(n - at));
	p->len = p->root + (u32)(n - at);
	p->path[p->len] = 0;
	return true;
}

static u64 id_of(const struct place *p)
{
	struct stat64 st;

	return shim_sys2(NR_STAT, p->path, &st) ? 0 : st.ino;
}

u64 cgroup_id(void)
{
	struct place p;

	return mount_point(&p) && own_path(&p) ? id_of(&p) : 0;
}

u64 cgroup_ancestor_id(s32 level)
{
	struct place p;
	u32 at;

	if (level < 0 || !mount_point(&p) || !own_path(&p))
		return 0;
	at = p.root;
	for (; level > 0 && at + 1 < p.len; level--)
		do
			at++;
		while (at < p.len && p.path[at] != '/');
	if (level)
		return 0;
	p.path[at > p.root ? at : p.root + 1] = 0;
	return id_of(&p);
}

bool cgroup_under(u64 id)
{
	struct place p;

	if (!mount_point(&p) || !own_path(&p))
		return false;
	for (;;) {
		if (id_of(&p) == id)
			return true;
		if (p.len <= p.root + 1) /* that was the root, "/" */
			return false;
		while (p.len > p.root + 1 && p.path[p.len - 1] != '/')
			p.len--;
		if (p.len > p.root + 1)
			p.len--;
		p.path[p.len] = 0;
	}
}
