/*
 * bpf(2) and its kin by a program that is run as a system call (BPF_PROG_TYPE_SYSCALL): it is the caller's
 * own, whose command the backend has answered by now, so it goes the way of every other.
 */
#include <string.h>

#include "agent.h"
#include "surface.h"

enum { NAME_MAX_ = 512 }; /* KSYM_NAME_LEN */

/* Handlers of ours for reads that fault are for runs alone. */
static long call_bpf(u32 cmd, u64 attr, u32 size)
{
	agent_alone_end();
	return surface_bpf(cmd, attr, size);
}

static long call_close(int fd)
{
	agent_alone_end();
	return surface_close_theirs(fd);
}

/* Above the number of a type of a module's BTF is a descriptor of that. */
static long take(struct rpc *r, u64 *found)
{
	long fd = 0;

	if (r->in_len < sizeof(*found))
		return -EIO;
	memcpy(found, r->in, sizeof(*found));
	if (r->nfds) {
		fd = rpc_take_fd(r);
		*found |= (u64)fd << 32;
	}
	return fd;
}

static long call_find(u32 kind, const char *name, u64 *found)
{
	size_t len = strnlen(name, NAME_MAX_);
	struct rpc r;
	long ret;
	u8 *to;

	agent_alone_end();
	if (len == NAME_MAX_)
		return -ENOENT;
	ret = rpc_begin(&r);
	if (ret)
		return ret;
	to = rpc_room(&r, sizeof(kind) + len);
	if (to) {
		memcpy(to, &kind, sizeof(kind));
		memcpy(to + sizeof(kind), name, len);
	}
	ret = to ? rpc_call(&r, SHIM_OP_FIND) : -ENOMEM;
	if (ret >= 0)
		ret = take(&r, found);
	rpc_end(&r);
	if (ret > 0)
		surface_fd_install((int)ret, SHIM_FD_BTF);
	return ret < 0 ? ret : 0;
}

const struct shim_caller surface_caller = { call_bpf, call_close, call_find, NULL };
const struct shim_caller *shim_run_caller = &surface_caller;
