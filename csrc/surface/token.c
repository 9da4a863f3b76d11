/*
 * The token of this loader: a file that LIBBPF_BPF_TOKEN_PATH names, a line of text, which goes to the
 * backend with the hello. Nothing of it is looked at here.
 *
 * libbpf 1.5 and later takes that path for a bpffs: a folder that it opens and gives to TOKEN_CREATE. So
 * where it stands for a file, it is the session's bpffs to who opens it as a folder.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "surface.h"

static const char *path_of(void)
{
	const char *path = surface_variable("LIBBPF_BPF_TOKEN_PATH");

	return path && *path ? path : NULL;
}

bool surface_token_path(const char *path)
{
	const char *own = path_of();

	return own && !strcmp(own, path);
}

void surface_token(struct rpc *r)
{
	const char *path = path_of();
	size_t have = 0;
	long fd, n;
	u8 *room;

	if (!path)
		return;
	/* not to wait for the other end of a pipe */
	fd = shim_sys3(SYS_open, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0);
	if (fd < 0)
		return;
	room = rpc_room(r, SHIM_TOKEN_MAX);
	while (room && have < SHIM_TOKEN_MAX) {
		n = shim_sys3(SYS_read, fd, room + have, SHIM_TOKEN_MAX - have);
		if (n == -EINTR)
			continue;
		if (n <= 0)
			break;
		have += (size_t)n;
	}
	if (room)
		r->out_len -= SHIM_TOKEN_MAX - have;
	surface_close((int)fd);
}
