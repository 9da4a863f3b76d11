/* A target's memory and mappings. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

int kp_write(struct kp_target *t, u64 addr, const void *buf, size_t len)
{
	const char *p = buf;

	while (len) {
		ssize_t n;

		kp_step();
		n = pwrite(t->mem, p, len, (off_t)addr);
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

int kp_maps(int proc, int (*each)(const struct kp_mapping *m, void *arg), void *arg)
{
	int fd = openat(proc, "maps", O_RDONLY | O_CLOEXEC);
	FILE *file;
	char *line = NULL;
	size_t room = 0;
	ssize_t n;
	int ret = 0;

	if (fd < 0)
		return -errno;
	file = fdopen(fd, "r");
	if (!file) {
		close(fd);
		return -ENOMEM;
	}
	while (!ret && (n = getline(&line, &room, file)) > 0) {
		struct kp_mapping m = { 0 };
		int at = 0;

		if (line[n - 1] == '\n')
			line[n - 1] = 0;
		if (sscanf(line, "%llx-%llx %4s %llx %x:%x %llu %n", &m.lo, &m.hi, m.perms, &m.off,
			   &m.major, &m.minor, &m.ino, &at) < 7)
			continue;
		m.path = line + at;
		ret = each(&m, arg);
	}
	free(line);
	fclose(file);
	return ret;
}
