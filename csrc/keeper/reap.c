/*
 * After the backend's death: this session's sites are restored in every process that still
 * maps the session's control memfd. Such a process is found by its mappings, fork children
 * included; passes go on until one finds nothing left to do.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "keeper.h"
#include "shim_wire.h"

enum { MAX_PASSES = 20, PASS_PAUSE_NS = 20000000, DETACH_MS = 500 };

struct search {
	const struct shim_kp_session *session;
	int maps_ctl; /* of the session */
	int others; /* control pages of some session */
	int injected;
	u64 root;
};

/* The root's place stands in the name of an image that a keeper has mapped. */
static void look_at_image(const struct kp_mapping *m, struct search *s)
{
	static const char image[] = "/memfd:" SHIM_IMAGE_NAME;
	unsigned int version;
	u64 off;

	if (m->off || strncmp(m->path, image, sizeof(image) - 1))
		return;
	if (sscanf(m->path + sizeof(image) - 1, "%u-%llx", &version, &off) != 2 ||
	    version != SHIM_AGENT_VERSION)
		return;
	s->injected = 1;
	s->root = m->lo + off;
}

static int look(const struct kp_mapping *m, void *arg)
{
	struct search *s = arg;

	if (m->ino == s->session->ctl_ino && m->major == major(s->session->ctl_dev) &&
	    m->minor == minor(s->session->ctl_dev))
		s->maps_ctl = 1;
	if (!strncmp(m->path, "/memfd:bpf-ctl", 14))
		s->others = 1;
	if (!s->root && m->off == 0 && !strcmp(m->path, s->session->library))
		s->root = m->lo + s->session->root_off;
	if (!s->root)
		look_at_image(m, s);
	return 0;
}

/* The process gives back what sessions of dead backends mapped: no path, nobody to talk to. */
static int sweep(struct kp_target *t, pid_t pid, u64 root)
{
	struct shim_kp_call call = { .root = root,
				     .reason = SHIM_SYNC_KEEPER,
				     .timeout_ms = DETACH_MS };
	int ret = kp_stop(t, pid);

	if (ret < 0)
		return ret;
	ret = kp_call(t, &call);
	kp_release(t);
	return ret;
}

/* 1: something was restored or is still to be tried; 0: nothing of this session there. */
static int reap_one(struct kp_target *t, const struct shim_kp_session *session, pid_t pid, int proc)
{
	struct search s = { .session = session };
	struct shim_kp_detach req = { .session_id = session->session_id, .timeout_ms = DETACH_MS };
	struct shim_kp_eject out = { .timeout_ms = DETACH_MS };
	int ret;

	if (kp_maps(proc, look, &s) < 0 || !s.root)
		return 0;
	req.root = out.root = s.root;
	/* an agent of ours that no session is in: nobody has taken it out */
	if (s.injected && !s.others && kp_gave(pid)) {
		ret = kp_eject(t, pid, &out);
		return ret == -EBUSY || ret == -EAGAIN;
	}
	if (!s.maps_ctl)
		return 0;
	ret = kp_detach(t, pid, &req);
	if (ret >= 0)
		ret = sweep(t, pid, req.root);
	if (ret >= 0 && s.injected)
		kp_eject(t, pid, &out); /* but for one that is to stay, or has another session */
	return ret > 0 || ret == -EBUSY || ret == -EAGAIN;
}

static int pass(struct kp_target *t, const struct shim_kp_session *session, DIR *dir)
{
	struct dirent *entry;
	struct stat st;
	int more = 0;

	rewinddir(dir);
	while ((entry = readdir(dir))) {
		pid_t pid = atoi(entry->d_name);
		int proc;

		if (pid <= 0 || pid == getpid())
			continue;
		proc = openat(dirfd(dir), entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (proc < 0)
			continue;
		if (!fstat(proc, &st) && (st.st_uid == session->uid || !session->uid))
			more |= reap_one(t, session, pid, proc);
		close(proc);
	}
	return more;
}

void kp_reap(struct kp_target *t, const struct shim_kp_session *session)
{
	const struct timespec pause = { 0, PASS_PAUSE_NS };
	DIR *dir = opendir("/proc");
	int i;

	for (i = 0; dir && i < MAX_PASSES && pass(t, session, dir); i++)
		nanosleep(&pause, NULL);
	if (dir)
		closedir(dir);
}
