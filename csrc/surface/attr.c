/* The kernel's rule for structures that grow (bpf_check_uarg_tail_zero, copy_struct_from_user). */
#include <string.h>

#include "surface.h"

long surface_copy_attr(void *dst, size_t ksize, u64 user, size_t size)
{
	u8 tail[256];
	size_t take = size < ksize ? size : ksize;

	if (size > SHIM_PAGE)
		return -E2BIG;
	for (size_t at = ksize; at < size; at += sizeof(tail)) {
		size_t n = size - at < sizeof(tail) ? size - at : sizeof(tail);

		if (shim_copy_from(tail, user + at, n))
			return -EFAULT;
		for (size_t i = 0; i < n; i++)
			if (tail[i])
				return -E2BIG;
	}
	memset(dst, 0, ksize);
	return take && shim_copy_from(dst, user, take) ? -EFAULT : 0;
}
