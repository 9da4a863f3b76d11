/* bpf(2): size rule, element commands here, everything else to the backend. */
#include <string.h>

#include "surface.h"

enum { MAP_UPDATE_ELEM = 2, MAP_DELETE_ELEM = 3, OBJ_GET_INFO_BY_FD = 15 };

/* What the descriptor that a command answers with is; NONE: asked when it matters. */
static u32 kind_of_result(u32 cmd)
{
	switch (cmd) {
	case 0: /* MAP_CREATE */
	case 14: /* MAP_GET_FD_BY_ID */ return SHIM_FD_MAP;
	case 5: /* PROG_LOAD */
	case 13: /* PROG_GET_FD_BY_ID */ return SHIM_FD_PROG;
	case 18: /* BTF_LOAD */
	case 19: /* BTF_GET_FD_BY_ID */ return SHIM_FD_BTF;
	case 17: /* RAW_TRACEPOINT_OPEN */
	case 28: /* LINK_CREATE */
	case 30: /* LINK_GET_FD_BY_ID */ return SHIM_FD_LINK;
	case 32: /* ENABLE_STATS */ return SHIM_FD_STATS;
	case 36: /* TOKEN_CREATE */ return SHIM_FD_TOKEN;
	default: return SHIM_FD_NONE;
	}
}

/* What must be known before memory is gathered, and before the connection is taken. */
static u32 hint(u32 cmd, const u8 *attr)
{
	struct surface_obj *obj;
	u32 size = 4;

	if (cmd == OBJ_GET_INFO_BY_FD)
		return surface_fd_kind((int)attr_u32(attr, 0));
	if (cmd != MAP_UPDATE_ELEM && cmd != MAP_DELETE_ELEM)
		return 0;
	obj = surface_obj_get((int)attr_u32(attr, 0), SHIM_FD_MAP);
	if (obj && load_acquire(&obj->mapped))
		size = obj->desc.key_size;
	if (obj)
		surface_obj_put(obj);
	return size;
}

static long remote(u32 cmd, const u8 *attr, u64 uattr, u32 size)
{
	u32 known = hint(cmd, attr);
	u8 payload[sizeof(struct shim_act_run)] = { 0 };
	struct gathered g;
	struct rpc r;
	u32 action = 0, have = 0, i;
	size_t tail = 0;
	long ret = rpc_begin(&r), err;

	if (ret)
		return ret;
	ret = surface_gather(&r, &g, cmd, attr, size, known);
	if (!ret)
		ret = rpc_call(&r, SHIM_OP_BPF);
	err = surface_scatter(&r, &g, uattr, &tail);
	if (err) /* also where the command failed: nobody could be told why */
		ret = err;
	if (ret >= 0) {
		action = r.reply.action;
		for (i = 0; tail + i < r.in_len && i < sizeof(payload); i++)
			payload[i] = r.in[tail + i];
		have = i;
		if (r.nfds)
			ret = rpc_take_fd(&r);
	}
	i = r.reply.nfds && ret >= 0;
	rpc_end(&r);
	if (i && kind_of_result(cmd))
		surface_fd_install((int)ret, kind_of_result(cmd));
	else if (i)
		surface_fd_kind((int)ret);
	return action && ret >= 0 ? surface_act(action, payload, have, attr, uattr, ret) : ret;
}

long surface_elem_remote(u32 cmd, int fd, const void *key, const void *value, u64 flags)
{
	u64 attr[BPF_ATTR_SIZE / 8] = { (u32)fd, (u64)key, (u64)value, flags };

	return remote(cmd, (const u8 *)attr, 0, sizeof(u64) * 4);
}

long surface_bpf_slow(u32 cmd, u64 uattr, u32 size)
{
	u8 attr[BPF_ATTR_SIZE] __attribute__((aligned(8)));
	long err;

	if (surface.secure)
		return shim_sys3(SYS_bpf, cmd, uattr, size);
	err = surface_copy_attr(attr, sizeof(attr), uattr, size);
	if (err)
		return err;
	if ((cmd >= 1 && cmd <= 4) || cmd == 21 || (cmd >= 24 && cmd <= 27)) {
		err = surface_elem(cmd, attr, uattr);
		if (err != SURFACE_NOT_LOCAL)
			return err;
	}
	return remote(cmd, attr, uattr, size);
}
