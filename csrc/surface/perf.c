/* perf_event_open and ioctl on perf events of ours, and where their rings are mapped. */
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "surface.h"

enum { VER0_SIZE = 64, FD_CLOEXEC_FLAG = 8 /* PERF_FLAG_FD_CLOEXEC */ };
enum { IOC_TYPE = '$', IOC_ID_NR = 7, IOC_SET_BPF_NR = 8 };
enum { TYPE_SOFTWARE = 1, SW_BPF_OUTPUT = 10 };

/* PMUs of probes, whose events name a place by a string. */
static const char *const pmus[] = {
	"/sys/bus/event_source/devices/uprobe/type",
	"/sys/bus/event_source/devices/kprobe/type",
};

/* A PMU's number on this machine (or in our own tree), -1 if it has none. */
static s64 pmu_type(u32 pmu)
{
	static s64 known[array_size(pmus)]; /* number + 2; 0: not read yet */
	char path[SURFACE_PATH], text[16] = "";
	const char *real = pmus[pmu], *other;
	s64 type = -1;
	long fd;

	if (load_acquire(&known[pmu]))
		return known[pmu] - 2;
	fd = shim_sys3(SYS_open, real, O_RDONLY | O_CLOEXEC, 0);
	other = fd < 0 ? surface_redirect(real, path, ENOENT) : NULL;
	if (other)
		fd = shim_sys3(SYS_open, other, O_RDONLY | O_CLOEXEC, 0);
	if (fd >= 0) {
		if (shim_sys3(SYS_read, fd, text, sizeof(text) - 1) > 0)
			for (type = 0; text[0] >= '0' && text[0] <= '9'; memmove(text, text + 1, 15))
				type = type * 10 + (text[0] - '0');
		surface_close((int)fd);
	}
	store_release(&known[pmu], type + 2);
	return type;
}

static bool is_probe(u32 type)
{
	for (u32 i = 0; i < array_size(pmus); i++)
		if ((s64)type == pmu_type(i))
			return true;
	return false;
}

/* perf_copy_attr(): size 0 is VER0; too small, too large, or a tail: E2BIG, and the size we know
 * is written back. */
static long copy_perf_attr(u8 *attr, u64 uattr, u32 *size)
{
	u32 ksize = PERF_ATTR_SIZE;
	long err;

	if (shim_copy_from(size, uattr + 4, 4))
		return -EFAULT;
	if (!*size)
		*size = VER0_SIZE;
	err = *size < VER0_SIZE ? -E2BIG : surface_copy_attr(attr, PERF_ATTR_SIZE, uattr, *size);
	if (err == -E2BIG)
		shim_copy_to(uattr + 4, &ksize, 4);
	return err;
}

static long put_string(struct rpc *r, u64 user)
{
	u8 *to = rpc_room(r, SURFACE_PATH);
	long n = 1;

	if (!to)
		return -ENOMEM;
	*to = 0;
	if (user)
		n = shim_strncpy_from(to, user, SURFACE_PATH);
	if (n < 0)
		return -EFAULT;
	if (n >= SURFACE_PATH && to[SURFACE_PATH - 1])
		return -E2BIG; /* perf_uprobe_init(): strndup_user's EINVAL becomes E2BIG */
	r->out_len -= SURFACE_PATH - (size_t)n;
	return 0;
}

long surface_perf_event_open(u64 uattr, s32 pid, s32 cpu, s32 group, u64 flags)
{
	u8 attr[PERF_ATTR_SIZE] __attribute__((aligned(8)));
	struct shim_perf_open *req;
	u32 size, take, kind = SHIM_FD_PERF_EVENT;
	struct rpc r;
	long ret;

	if (surface.secure)
		return shim_sys5(SYS_perf_event_open, uattr, pid, cpu, group, flags);
	if (flags & ~0xfULL)
		return -EINVAL;
	ret = copy_perf_attr(attr, uattr, &size);
	if (ret)
		return ret;
	take = size < PERF_ATTR_SIZE ? size : PERF_ATTR_SIZE;
	ret = rpc_begin(&r);
	if (ret)
		return ret;
	req = rpc_room(&r, sizeof(*req) + take);
	*req = (struct shim_perf_open){ pid, cpu, group, take, flags };
	memcpy(req + 1, attr, take);
	if (is_probe(attr_u32(attr, 0))) {
		ret = put_string(&r, attr_u64(attr, 56));
		if (!ret)
			ret = put_string(&r, 0); /* config2 is the offset, not a pointer */
	}
	if (!ret)
		ret = rpc_call(&r, SHIM_OP_PERF_OPEN);
	if (ret >= 0)
		ret = rpc_take_fd(&r);
	rpc_end(&r);
	if (ret < 0)
		return ret;
	if (!(flags & FD_CLOEXEC_FLAG))
		shim_sys3(SYS_fcntl, ret, F_SETFD, 0);
	if (attr_u32(attr, 0) == TYPE_SOFTWARE && attr_u64(attr, 8) == SW_BPF_OUTPUT)
		kind = SHIM_FD_PERF_RING;
	surface_fd_install((int)ret, kind);
	return ret;
}

long surface_perf_ioctl(int fd, u64 request, u64 arg)
{
	struct shim_perf_ioctl *req;
	u8 payload[64] = { 0 };
	u32 action = 0, len = 0;
	struct rpc r;
	long ret = rpc_begin(&r);

	if (ret)
		return ret;
	req = rpc_room(&r, sizeof(*req));
	memset(req, 0, sizeof(*req));
	surface_identity(fd, &req->event);
	req->prog.fd = -1;
	if (_IOC_NR(request) == IOC_SET_BPF_NR)
		surface_identity((int)arg, &req->prog);
	req->request = request;
	req->arg = arg;
	ret = rpc_call(&r, SHIM_OP_PERF_IOCTL);
	if (ret >= 0) {
		action = r.reply.action;
		len = (u32)(r.in_len < sizeof(payload) ? r.in_len : sizeof(payload));
		memcpy(payload, r.in, len);
	}
	rpc_end(&r);
	if (ret >= 0 && _IOC_NR(request) == IOC_ID_NR && len == 8 && shim_copy_to(arg, payload, 8))
		return -EFAULT;
	return action ? surface_act(action, payload, len, NULL, 0, ret) : ret;
}

bool surface_perf_ours(int fd, u64 request)
{
	u32 kind = surface_fd_known(fd);

	return unlikely(kind == SHIM_FD_PERF_RING || kind == SHIM_FD_PERF_EVENT) &&
	       _IOC_TYPE(request) == IOC_TYPE;
}

EXPORT int ioctl(int fd, unsigned long request, ...)
{
	va_list list;
	u64 arg;

	va_start(list, request);
	arg = va_arg(list, u64);
	va_end(list);
	if (surface_perf_ours(fd, request))
		return (int)surface_ret(surface_perf_ioctl(fd, (u32)request, arg));
	return REAL(ioctl)(fd, request, arg);
}

/* A second mapping of a part of the perf area: mremap with old size 0 makes one of a shared
 * mapping, so that no descriptor of the area need be kept. */
long surface_perf_mmap(struct surface_obj *obj, u64 addr, u64 len, int prot, int flags, int fd)
{
	struct shim_perf_mmap req = { .length = len };
	struct shim_perf_mapped at;
	long ret = surface_identity(fd, &req.event), mapped;

	if (ret)
		return ret;
	if (!(flags & MAP_SHARED))
		return -EINVAL;
	ret = rpc_simple(SHIM_OP_PERF_MMAP, &req, sizeof(req), &at, sizeof(at));
	if (ret < 0)
		return ret;
	if (at.off > surface.perf_size || len > surface.perf_size - at.off)
		return -ENOMEM;
	mapped = shim_sys5(SYS_mremap, surface.perf + at.off, 0, len,
			   MREMAP_MAYMOVE | (flags & MAP_FIXED ? MREMAP_FIXED : 0), addr);
	if (mapped < 0 && mapped > -4096)
		return mapped;
	if (!(prot & PROT_WRITE))
		shim_sys3(SYS_mprotect, mapped, len, prot);
	obj->perf_off = at.off;
	store_release(&obj->data_size, len - SHIM_PAGE);
	return mapped;
}
