/* A target's memory and mappings. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <unistd.h>

#include "keeper.h"

static int transfer_error(ssize_t n)
{
	/* 0: the address space is gone; EIO: nothing mapped there. */
	if (n == 0)
		return -ESRCH;
	return errno == EIO ? -EFAULT : -errno;
}

int kp_read(struct kp_target *t, u64 addr, void *buf, size_t len)
{
	char *p = buf;

	while (len) {
		ssize_t n = pread(t->mem, p, len, (off_t)addr);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return transfer_error(n);
		p += n;
		addr += n;
		len -= n;
	}
	return 0;
}

int kp_open_mem(int proc, const char *path)
{
	int fd = openat(proc, path, O_RDWR | O_CLOEXEC);

	return fd < 0 && errno == EACCES ? openat(proc, path, O_RDONLY | O_CLOEXEC) : fd;
}

/* Word by word, where /proc/PID/mem cannot be written (gVisor). */
static int poke(const struct kp_target *t, u64 addr, const char *p, size_t len)
{
	const struct kp_thread *th = t->threads, *end = th + t->nthreads;

	while (th < end && th->state != KP_STOPPED)
		th++;
	while (len) {
		u32 skip = addr % sizeof(long), n = sizeof(long) - skip;
		u64 at = addr - skip;
		long word = 0;

		n = n < len ? n : (u32)len;
		errno = th < end ? 0 : ESRCH;
		if (!errno && n < sizeof(word))
			word = ptrace(PTRACE_PEEKDATA, th->tid, at, 0);
		if (errno)
			return errno == EIO ? -EFAULT : -errno;
		memcpy((char *)&word + skip, p, n);
		kp_step();
		if (ptrace(PTRACE_POKEDATA, th->tid, at, word))
			return errno == EIO ? -EFAULT : -errno;
		p += n;
		addr += n;
		len -= n;
	}
	return 0;
}

int kp_write(struct kp_target *t, u64 addr, const void *buf, size_t len)
{
	const char *p = buf;

	while (len) {
		ssize_t n;

		kp_step();
		n = pwrite(t->mem, p, len, (off_t)addr);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EINVAL || errno == EBADF))
			return poke(t, addr, p, len);
		if (n <= 0)
			return transfer_error(n);
		p += n;
		addr += n;
		len -= n;
	}
	return 0;
}

/* A leader that has ended before its threads has no memory: theirs is asked for. -errno. */
static int open_maps(int proc)
{
	int fd = openat(proc, "maps", O_RDONLY | O_CLOEXEC), tasks;
	struct dirent *entry;
	char path[64], c;
	DIR *dir;

	if (fd < 0 || pread(fd, &c, 1, 0) == 1)
		return fd < 0 ? -errno : fd;
	tasks = openat(proc, "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	dir = tasks < 0 ? NULL : fdopendir(tasks);
	while (dir && (entry = readdir(dir))) {
		int other;

		snprintf(path, sizeof(path), "task/%.20s/maps", entry->d_name);
		other = entry->d_name[0] == '.' ? -1 : openat(proc, path, O_RDONLY | O_CLOEXEC);
		if (other < 0)
			continue;
		close(fd);
		fd = other;
		if (pread(fd, &c, 1, 0) == 1)
			break;
	}
	if (dir)
		closedir(dir);
	return fd;
}

/* "lo-hi perms off major:minor ino path"; sscanf takes longer than the kernel to write it. */
static int parse(char *line, struct kp_mapping *m)
{
	char *at = line;

	m->lo = strtoull(at, &at, 16);
	m->hi = *at == '-' ? strtoull(at + 1, &at, 16) : 0;
	if (!m->hi || *at != ' ' || strnlen(at, 6) < 6)
		return 0;
	memcpy(m->perms, at + 1, 4);
	m->off = strtoull(at + 5, &at, 16);
	m->major = (u32)strtoul(at, &at, 16);
	if (*at != ':')
		return 0;
	m->minor = (u32)strtoul(at + 1, &at, 16);
	m->ino = strtoull(at, &at, 10);
	m->path = at + strspn(at, " ");
	return 1;
}

int kp_maps(int proc, int (*each)(const struct kp_mapping *m, void *arg), void *arg)
{
	static char buffer[32768];
	int fd = open_maps(proc);
	FILE *file;
	char *line = NULL;
	size_t room = 0;
	ssize_t n;
	int ret = 0;

	if (fd < 0)
		return fd;
	file = fdopen(fd, "r");
	if (!file) {
		close(fd);
		return -ENOMEM;
	}
	setvbuf(file, buffer, _IOFBF, sizeof(buffer));
	while (!ret && (n = getline(&line, &room, file)) > 0) {
		struct kp_mapping m = { 0 };

		if (line[n - 1] == '\n')
			line[n - 1] = 0;
		if (parse(line, &m))
			ret = each(&m, arg);
	}
	free(line);
	fclose(file);
	return ret;
}

u32 kp_own_number(const struct kp_target *t, pid_t tid)
{
	char path[64], text[4096], *at;
	ssize_t n = -1;
	u32 last = 0;
	int fd;

	snprintf(path, sizeof(path), "task/%d/status", tid);
	fd = openat(t->proc, path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		n = read(fd, text, sizeof(text) - 1);
		close(fd);
	}
	text[n > 0 ? n : 0] = 0;
	at = strstr(text, "\nNSpid:");
	for (at = at ? at + 7 : text + strlen(text); *at == '\t';)
		last = (u32)strtoul(at + 1, &at, 10);
	return last;
}
