/*
 * Copies that an unmapped address fails instead of killing. What is known to stay (the thread's own stack) is
 * copied as it is; else by process_vm_readv on oneself, which needs no signal handler. Where that is
 * refused (seccomp), through a pipe: the kernel checks what write(2) reads and what read(2) writes.
 */
#include "runtime.h"

enum { NR_READ = 0, NR_WRITE = 1, NR_CLOSE = 3, NR_GETTID = 186, NR_PIPE2 = 293 };
enum { NR_PROCESS_VM_READV = 310, NR_PROCESS_VM_WRITEV = 311 };
enum { O_CLOEXEC_ = 02000000, PAGE_MASK = SHIM_PAGE - 1, CHUNK = 128, LEAST = 1 << 16 };

struct part {
	u64 base, len;
};

static bool refused(long ret)
{
	return ret == -EPERM || ret == -ENOSYS;
}

/* A page at a time fits into an empty pipe whole. */
static long through_pipe(u64 dst, u64 src, u64 len)
{
	s32 fd[2];
	u64 done = 0;
	long n = shim_sys2(NR_PIPE2, fd, O_CLOEXEC_);

	if (n)
		return n;
	while (done < len) {
		u64 part = len - done < SHIM_PAGE ? len - done : SHIM_PAGE;

		n = shim_sys3(NR_WRITE, fd[1], src + done, part);
		if (n > 0)
			n = shim_sys3(NR_READ, fd[0], dst + done, n);
		if (n <= 0)
			break;
		done += (u64)n;
	}
	shim_sys1(NR_CLOSE, fd[0]);
	shim_sys1(NR_CLOSE, fd[1]);
	return done == len ? 0 : -EFAULT;
}

u32 (*shim_own_tid)(void);
u64 (*shim_stays)(u64 addr);
const struct shim_quick *shim_quick;

/* not getpid: a first thread that has ended before the others has no memory any more */
static long copy(long nr, u64 dst, u64 src, u64 len)
{
	bool in = nr == NR_PROCESS_VM_READV;
	struct part to = { dst, len }, from = { src, len };
	struct part *local = in ? &to : &from, *remote = in ? &from : &to;
	u32 known = shim_own_tid ? shim_own_tid() : 0;
	long n = -ESRCH;

	if (!len)
		return 0;
	if (known)
		n = shim_sys6(nr, known, (long)local, 1, (long)remote, 1, 0);
	/* a child of vfork that is taken for its parent: Yama may keep that from it */
	if (n == -ESRCH || (known && n == -EPERM))
		n = shim_sys6(nr, shim_sys0(NR_GETTID), (long)local, 1, (long)remote, 1, 0);
	if (refused(n))
		return through_pipe(dst, src, len);
	return n == (long)len ? 0 : -EFAULT;
}

/* How many of len bytes can be copied as they are. */
static u64 at_hand(u64 addr, u64 len)
{
	u64 end = shim_stays ? shim_stays(addr) : 0;

	if (!end)
		return 0;
	return end - addr < len ? end - addr : len;
}

static bool quickly(u64 addr, u64 len, u64 least)
{
	const u64 end = 0x7ffffffff000ull;

	return shim_quick && addr >= least && addr < end && len <= end - addr && shim_quick->may();
}

/* No process has memory there, whatever its kernel and processor; a program that follows a pointer of the kernel's,
 * or a number that is none, need not ask. */
static bool beyond(u64 addr, u64 len)
{
	return len && addr >> 56;
}

static u64 least(void)
{
	return shim_quick ? shim_quick->least : 0;
}

/* Stores of other threads may come between, as between those of the kernel. */
static void plain(void *dst, u64 src, u64 len)
{
	u8 *out = dst;

	for (; len >= 8; len -= 8, src += 8, out += 8) {
		u64 word = *(const volatile u64 *)src;

		__builtin_memcpy(out, &word, 8);
	}
	for (; len; len--)
		*out++ = *(const volatile u8 *)src++;
}

long shim_copy_asking(void *dst, u64 src, u64 len)
{
	return copy(NR_PROCESS_VM_READV, (u64)dst, src, len);
}

long shim_copy_from(void *dst, u64 src, u64 len)
{
	if (at_hand(src, len) == len) {
		plain(dst, src, len);
		return 0;
	}
	if (quickly(src, len, least()))
		return shim_quick->copy(dst, src, len);
	return beyond(src, len) ? -EFAULT : shim_copy_asking(dst, src, len);
}

long shim_copy_to(u64 dst, const void *src, u64 len)
{
	if (quickly(dst, len, LEAST))
		return shim_quick->copy((void *)dst, (u64)src, len);
	return beyond(dst, len) ? -EFAULT : copy(NR_PROCESS_VM_WRITEV, dst, (u64)src, len);
}

/* Bytes with the NUL; 0: there is none, and the first n bytes were copied. */
static u64 plain_string(u8 *out, u64 src, u64 n)
{
	const u64 ones = 0x0101010101010101ull, tops = 0x8080808080808080ull;
	u64 i = 0;

	for (; i + 8 <= n; i += 8) {
		u64 word = *(const volatile u64 *)(src + i);
		u64 zero = (word - ones) & ~word & tops;

		if (zero) { /* nothing is written behind the NUL */
			u64 bytes = (u64)__builtin_ctzll(zero) / 8 + 1;

			for (u64 b = 0; b < bytes; b++, word >>= 8)
				out[i + b] = (u8)word;
			return i + bytes;
		}
		__builtin_memcpy(out + i, &word, 8);
	}
	for (; i < n; i++) {
		out[i] = *(const volatile u8 *)(src + i);
		if (!out[i])
			return i + 1;
	}
	return 0;
}

long shim_strncpy_from(void *dst, u64 src, u64 size)
{
	u8 part[CHUNK], *out = dst;
	u64 done = at_hand(src, size), end = plain_string(out, src, done);

	if (end)
		return (long)end;
	if (done < size && quickly(src + done, size - done, least())) {
		long more = shim_quick->string(out + done, src + done, size - done);

		return more < 0 ? more : (long)done + more;
	}
	while (done < size) {
		u64 n = SHIM_PAGE - ((src + done) & PAGE_MASK);

		if (n > size - done)
			n = size - done;
		if (n > CHUNK)
			n = CHUNK;
		if (shim_copy_from(part, src + done, n))
			return -EFAULT;
		end = plain_string(out + done, (u64)part, n);
		if (end)
			return (long)(done + end);
		done += n;
	}
	return (long)size;
}
