/* What programs that are run as system calls do in the name of who runs them: bpf(2), close(2), and names
 * that are looked up. Source: kernel/bpf/syscall.c (bpf_sys_bpf, bpf_sys_close, bpf_kallsyms_lookup_name),
 * kernel/bpf/btf.c (bpf_btf_find_by_name_kind), kernel/bpf/helpers.c (bpf_copy_from_user).
 *
 * Images keep a stack as they like; what is called here does not. */
#include "helpers.h"

#define FROM_IMAGE __attribute__((force_align_arg_pointer))

const struct shim_caller *shim_caller;

enum { KINDS = 32 }; /* that BTF has room for */

static bool allowed(u32 cmd)
{
	switch (cmd) {
	case BPF_MAP_CREATE:
	case BPF_MAP_UPDATE_ELEM:
	case BPF_MAP_DELETE_ELEM:
	case BPF_PROG_LOAD:
	case BPF_MAP_GET_FD_BY_ID:
	case BPF_RAW_TRACEPOINT_OPEN:
	case BPF_BTF_LOAD:
	case BPF_MAP_FREEZE:
	case BPF_LINK_CREATE: return true;
	default: return false;
	}
}

FROM_IMAGE HELPER(sys_bpf)
{
	UNUSED(r4, r5, (u64)run);
	if (!allowed((u32)r1))
		return (u64)-EINVAL;
	return (u64)(shim_caller ? shim_caller->bpf((u32)r1, r2, (u32)r3) : -EOPNOTSUPP);
}

FROM_IMAGE HELPER(sys_close)
{
	UNUSED(r2, r3, r4, r5, (u64)run);
	return (u64)(shim_caller ? shim_caller->close((int)r1) : -EOPNOTSUPP);
}

/* A name is given with its end. */
static long find(u32 kind, const char *name, s32 size, u32 flags, u64 *found)
{
	if (flags || size <= 1 || name[size - 1])
		return -EINVAL;
	return shim_caller ? shim_caller->find(kind, name, found) : -EOPNOTSUPP;
}

FROM_IMAGE HELPER(btf_find_by_name_kind)
{
	u32 kind = (u32)r3 < KINDS ? (u32)r3 : 0; /* 0 is no type's */
	u64 found = 0;
	long err = find(kind, (const char *)r1, (s32)r2, (u32)r4, &found);

	UNUSED(r5, (u64)run);
	return err ? (u64)err : found;
}

FROM_IMAGE HELPER(kallsyms_lookup_name)
{
	u64 found = 0;
	long err = find(SHIM_FIND_SYMBOL, (const char *)r1, (s32)r2, (u32)r3, &found);

	UNUSED(r5, (u64)run);
	*(u64 *)r4 = err ? 0 : found;
	return (u64)err;
}

/* What a probe has run is of the process that it is in. */
FROM_IMAGE HELPER(copy_from_user)
{
	if (run->regs || !shim_caller || !shim_caller->read)
		return helper_probe_read(r1, r2, r3, r4, r5, run);
	if (!shim_caller->read((void *)r1, r3, (u32)r2))
		return 0;
	memset((void *)r1, 0, (u32)r2);
	return (u64)-EFAULT;
}
