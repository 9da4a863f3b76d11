/*
 * An agent into a process that has none, under one stop. Until the last register write the
 * process undoes it all by itself when this process dies (remote.h); afterwards it has an agent.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "image.h"

enum { MAX_GIVEN = 4096 };

static const char image_path[] = "/memfd:" SHIM_IMAGE_NAME;

/* 1: an agent is there already. */
static int has_agent(const struct kp_mapping *m, void *arg)
{
	static const char library[] = "/libbpf_shim.so";
	size_t len = strlen(m->path), end = sizeof(library) - 1;

	(void)arg;
	if (!strncmp(m->path, image_path, sizeof(image_path) - 1))
		return 1;
	return len >= end && !strcmp(m->path + len - end, library);
}

static u64 auxv(const struct kp_remote *r, u64 type)
{
	Elf64_auxv_t pair;
	char path[64];
	u64 value = 0;
	int fd;

	snprintf(path, sizeof(path), "task/%d/auxv", r->th->tid);
	fd = openat(r->t->proc, path, O_RDONLY | O_CLOEXEC);
	while (fd >= 0 && read(fd, &pair, sizeof(pair)) == sizeof(pair) && pair.a_type != AT_NULL)
		if (pair.a_type == type)
			value = pair.a_un.a_val;
	if (fd >= 0)
		close(fd);
	return value;
}

static int map_and_start(struct kp_remote *r, const struct kp_image *im,
			 const struct shim_kp_inject *req)
{
	u64 base, dir;
	long ret = kp_image_map(im, r, req->name, &base);

	if (ret < 0)
		return (int)ret;
	dir = kp_remote_text(r, req->run_dir);
	if (!dir)
		return -EFAULT;
	ret = kp_remote_function(r, base + im->entry, auxv(r, AT_SYSINFO_EHDR), getauxval(AT_HWCAP2),
				 dir);
	return ret < 0 && ret > -4096 ? (int)ret : 0;
}

static int inject_stopped(struct kp_target *t, const struct kp_image *im,
			  const struct shim_kp_inject *req, char *why, size_t room)
{
	struct kp_remote r;
	int err = kp_maps(t->proc, has_agent, NULL);

	if (err)
		return err < 0 ? err : -EEXIST;
	err = kp_seccomp(t, why, room);
	if (err)
		return err;
	err = kp_remote_begin(&r, t);
	if (!err) {
		err = map_and_start(&r, im, req);
		if (err)
			kp_image_unmap(&r);
	} else if (err == -EOPNOTSUPP) {
		snprintf(why, room, "it runs 32-bit code");
	} else if (err == -ENOSPC) {
		snprintf(why, room, "no executable memory of it has dead bytes at its end");
	}
	kp_remote_end(&r);
	return err;
}

/* The last processes that got their agents from here. */
static pid_t given[MAX_GIVEN];
static unsigned int ngiven;

int kp_gave(pid_t pid)
{
	unsigned int i;

	for (i = 0; i < ngiven && i < MAX_GIVEN; i++)
		if (given[i] == pid)
			return 1;
	return 0;
}

int kp_inject(struct kp_target *t, pid_t pid, const struct shim_kp_inject *req, char *why, size_t room)
{
	struct kp_image im;
	int ret;

	if (t->pid && !(t->held && t->pid == pid))
		return -EBUSY;
	ret = kp_image_open(&im, req->image);
	if (ret) {
		snprintf(why, room, "%s: %s", req->image, strerror(-ret));
		return -ENOEXEC;
	}
	ret = kp_seccomp_ahead(pid, why, room);
	if (!ret)
		ret = kp_stop(t, pid);
	if (ret >= 0) {
		ret = inject_stopped(t, &im, req, why, room);
		if (!ret && !kp_gave(pid))
			given[ngiven++ % MAX_GIVEN] = pid;
		kp_release(t);
	}
	kp_image_close(&im);
	return ret;
}
