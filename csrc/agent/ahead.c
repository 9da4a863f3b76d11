/*
 * Before an exec: what the file is going to be as far as the library is concerned, and word to the
 * backends where the new image will not load the library by itself. They have it stopped then before
 * its first instruction (csrc/keeper/follow.c, attach/execs.py). The callers are the surface's exec
 * functions and the hook of system calls; the second of the two is silent.
 *
 * A process here may be a child of vfork: no memory but the stack, and what it leaves in its parent's
 * is keyed by the thread's number.
 */
#include "keys.h"
#include "proc.h"
#include "sys.h"

enum {
	NR_FGETXATTR = 193,
	AT_FDCWD_ = -100,
	AT_EMPTY_PATH_ = 0x1000,
	AT_SYMLINK_NOFOLLOW_ = 0x100,
	MODE_SET_ID = 06000,
	MODE_RUN = 0111,
	HEAD = 1024, /* bytes at a file's beginning that are looked at */
	SCRIPT = 256, /* of a script's first line, BINPRM_BUF_SIZE */
	SCRIPTS = 5, /* scripts whose interpreter is a script */
	NAME = 64,
	MOST_ENV = 16384,
	ENV_PART = 256,
	ANNOUNCED = 64,
	NR_EXECVEAT = 322,
};
enum {
	ET_DYN = 3,
	EM_X86_64 = 62,
	PT_LOAD = 1,
	PT_DYNAMIC = 2,
	PT_INTERP = 3,
	DT_STRTAB = 5,
	DT_SONAME = 14
};

static const char ours[] = "ld-linux-x86-64.so.2", library[] = "/libbpf_shim.so";
static const char preload[] = "LD_PRELOAD=";

struct elf_head {
	u8 ident[16];
	u16 type, machine;
	u32 version;
	u64 entry, phoff, shoff;
	u32 flags;
	u16 ehsize, phentsize, phnum, rest[3];
};
SHIM_ASSERT(sizeof(struct elf_head) == 64);

struct elf_segment {
	u32 type, flags;
	u64 off, vaddr, paddr, filesz, memsz, align;
};
SHIM_ASSERT(sizeof(struct elf_segment) == 56);

struct file {
	long fd;
	u32 nr; /* segments */
	const struct elf_segment *segments;
	u8 head[HEAD] __attribute__((aligned(8)));
};

/* struct stat of x86-64 */
struct stat_mode {
	u64 dev, ino, nlink;
	u32 mode, uid, gid, pad;
	u64 rest[13];
};
SHIM_ASSERT(sizeof(struct stat_mode) == 144);

/* text (n bytes, with or without a 0 at its end) is the name of glibc's dynamic linker, or ends in it. */
static int is_ours(const char *text, long n)
{
	enum { LEN = sizeof(ours) - 1 };

	while (n > 0 && !text[n - 1])
		n--;
	return n >= LEN && !agent_differs(text + n - LEN, ours, LEN) &&
	       (n == LEN || text[n - LEN - 1] == '/');
}

static const struct elf_segment *segment(const struct file *f, u32 type)
{
	for (u32 i = 0; i < f->nr; i++)
		if (f->segments[i].type == type)
			return &f->segments[i];
	return NULL;
}

/* The text at an address of the file's; its length. */
static long text_at(const struct file *f, u64 vaddr, char *to, u32 room)
{
	for (u32 i = 0; i < f->nr; i++) {
		const struct elf_segment *s = &f->segments[i];

		if (s->type == PT_LOAD && vaddr - s->vaddr < s->filesz) {
			long n = shim_sys4(NR_PREAD, f->fd, to, room, s->off + vaddr - s->vaddr),
			     len = 0;

			while (len < n && to[len])
				len++;
			return len;
		}
	}
	return 0;
}

/* A file without an interpreter: a library that is executed by itself, which only dynamic linkers
 * are, has a name of its own (DT_SONAME); what is linked statically has none. */
static u32 by_name(const struct file *f)
{
	const struct elf_segment *dynamic = segment(f, PT_DYNAMIC);
	u64 pair[2], strings = 0, name = 0, named = 0;
	char text[NAME];
	long n;

	for (u64 at = 0; dynamic && at + sizeof(pair) <= dynamic->filesz && at < 1 << 16;
	     at += sizeof(pair)) {
		if (shim_sys4(NR_PREAD, f->fd, pair, sizeof(pair), dynamic->off + at) != sizeof(pair) ||
		    !pair[0])
			break;
		if (pair[0] == DT_STRTAB)
			strings = pair[1];
		if (pair[0] == DT_SONAME) {
			name = pair[1];
			named = 1;
		}
	}
	if (!named)
		return AGENT_NEXT_STATIC;
	n = text_at(f, strings + name, text, sizeof(text));
	return is_ours(text, n) ? AGENT_NEXT_LOADS : AGENT_NEXT_OTHER;
}

static u32 of_elf(struct file *f, long n)
{
	const struct elf_head *h = (const void *)f->head;
	const struct elf_segment *interp;
	char name[SCRIPT];
	long len;

	if (n < (long)sizeof(*h) || h->machine != EM_X86_64 || agent_differs(h->ident + 4, "\2\1", 2) ||
	    h->phentsize != sizeof(struct elf_segment) || h->phoff % 8 || h->phoff > (u64)n ||
	    h->phnum > ((u64)n - h->phoff) / sizeof(struct elf_segment))
		return AGENT_NEXT_NONE;
	f->segments = (const void *)(f->head + h->phoff);
	f->nr = h->phnum;
	interp = segment(f, PT_INTERP);
	if (!interp)
		return by_name(f);
	len = (long)(interp->filesz < sizeof(name) ? interp->filesz : sizeof(name));
	len = shim_sys4(NR_PREAD, f->fd, name, len, interp->off);
	return is_ours(name, len) ? AGENT_NEXT_LOADS : AGENT_NEXT_OTHER;
}

/* The interpreter's name, where it stands; NULL: it is no script. */
static char *script(u8 *head, long n)
{
	char *at = (char *)head + 2, *end;

	if (n < 3 || head[0] != '#' || head[1] != '!')
		return NULL;
	head[n < SCRIPT ? n : SCRIPT - 1] = 0;
	while (*at == ' ' || *at == '\t')
		at++;
	for (end = at; *end && *end != ' ' && *end != '\t' && *end != '\n'; end++)
		;
	*end = 0;
	return *at ? at : NULL;
}

/* It is not run, or with rights that its file gives: traced, it would not get them. */
static int not_ours(long fd)
{
	struct stat_mode st;
	char caps[1];

	return shim_sys2(NR_FSTAT, fd, &st) || !(st.mode & MODE_RUN) || st.mode & MODE_SET_ID ||
	       shim_sys4(NR_FGETXATTR, fd, "security.capability", caps, 0) >= 0;
}

static long open_file(long dir, const char *path, u32 flags)
{
	char self[48];
	u32 at = 0;
	char first;

	if (flags & AT_EMPTY_PATH_ && !shim_copy_from(&first, (u64)path, 1) && !first) {
		agent_append(self, sizeof(self), &at, "/proc/thread-self/fd/");
		agent_append_number(self, sizeof(self), &at, (u64)(u32)dir);
		dir = AT_FDCWD_;
		path = self;
	} else if (flags & AT_SYMLINK_NOFOLLOW_) {
		return shim_sys4(NR_OPENAT, dir, path, O_CLOEXEC_ | O_NOFOLLOW_, 0);
	}
	return shim_sys4(NR_OPENAT, dir, path, O_CLOEXEC_, 0);
}

u32 agent_next(long dir, const char *path, u32 flags)
{
	u32 kind = AGENT_NEXT_NONE;
	struct file f;

	for (u32 i = 0; i < SCRIPTS && path; i++) {
		long n;

		f.fd = open_file(dir, path, flags);
		if (f.fd < 0)
			return AGENT_NEXT_NONE;
		n = shim_sys4(NR_PREAD, f.fd, f.head, sizeof(f.head), 0);
		dir = AT_FDCWD_;
		flags = 0;
		path = script(f.head, n);
		if (!path && n > 4 && !agent_differs(f.head, "\177ELF", 4))
			kind = of_elf(&f, n);
		if (kind != AGENT_NEXT_NONE && not_ours(f.fd))
			kind = AGENT_NEXT_NONE;
		shim_sys1(NR_CLOSE, f.fd);
	}
	return kind;
}

/* ---- word to the backends ---- */

static u32 announced[ANNOUNCED]; /* threads whose exec is known, by number */

static u32 *announcement(u32 tid)
{
	return &announced[tid % ANNOUNCED];
}

/* A session is here, and alive. */
static int somebody(void)
{
	for (u32 i = 0; i < shim_agent_root.nr_sessions; i++) {
		struct shim_session *session = &shim_agent_root.sessions[i];
		struct shim_ctl *ctl = (struct shim_ctl *)session->ctl;

		if (session->id && ctl && !(agent_load(&ctl->backend_lock[0]) & SHIM_BACKEND_DEAD))
			return 1;
	}
	return 0;
}

void agent_exec_ahead(void)
{
	u32 tid;

	if (agent_muted())
		return;
	tid = (u32)shim_sys0(NR_GETTID);
	agent_visit(SHIM_SYNC_EXEC);
	agent_store(announcement(tid), tid);
}

void agent_exec_over(void)
{
	u32 tid;

	if (agent_muted())
		return;
	tid = (u32)shim_sys0(NR_GETTID);
	if (agent_load(announcement(tid)) == tid)
		agent_store(announcement(tid), 0u);
}

/* The value of an environment's entry, which begins at `at`, has the library's name. */
static int has_library(u64 at)
{
	enum { LEN = sizeof(library) - 1 };
	char part[ENV_PART];

	for (u32 i = 0; i < MOST_ENV; i++) {
		long n = shim_strncpy_from(part, at, sizeof(part));

		for (long j = 0; j + LEN <= n; j++)
			if (!agent_differs(part + j, library, LEN))
				return 1;
		if (n < (long)sizeof(part))
			return 0;
		at += (u64)(n - LEN);
	}
	return 0;
}

static int preloads(u64 envp)
{
	char name[sizeof(preload) - 1];
	int found = 0;
	u64 at;

	for (u32 i = 0; i < MOST_ENV; i++) {
		if (shim_copy_from(&at, envp + 8 * (u64)i, 8) || !at)
			break;
		if (!shim_copy_from(name, at, sizeof(name)) &&
		    !agent_differs(name, preload, sizeof(name)))
			found = has_library(at + sizeof(name));
	}
	return found;
}

void agent_exec_seen(u32 nr, const struct shim_pt_regs *regs)
{
	u32 tid = (u32)shim_sys0(NR_GETTID), at = nr == NR_EXECVEAT, kind;

	if (agent_load(announcement(tid)) == tid) {
		agent_store(announcement(tid), 0u);
		return;
	}
	if (!somebody())
		return;
	kind = at ? agent_next((s32)regs->di, (const char *)regs->si, (u32)regs->r8)
		  : agent_next(AT_FDCWD_, (const char *)regs->di, 0);
	if (kind == AGENT_NEXT_NONE ||
	    (kind == AGENT_NEXT_LOADS && preloads(at ? regs->r10 : regs->dx)))
		return;
	agent_visit(SHIM_SYNC_EXEC);
}
