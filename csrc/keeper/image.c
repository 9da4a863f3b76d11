/*
 * The agent's image, an ELF file that is position independent and needs nobody: mapped into a
 * process by the remote calls of one of its threads. A memfd of the process holds the file while it
 * is mapped, so that the mappings have a name and none of our descriptors goes anywhere.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "image.h"

enum { PAGE = 4096 };

static u64 down(u64 at)
{
	return at & ~(u64)(PAGE - 1);
}

static u64 up(u64 at)
{
	return down(at + PAGE - 1);
}

static int check(struct kp_image *im)
{
	const Elf64_Ehdr *eh = (const void *)im->bytes;
	int i;

	if (im->size < sizeof(*eh) || memcmp(eh->e_ident, ELFMAG, SELFMAG) ||
	    eh->e_machine != EM_X86_64 || eh->e_type != ET_DYN || !eh->e_entry)
		return -ENOEXEC;
	if (eh->e_phentsize != sizeof(Elf64_Phdr) ||
	    eh->e_phoff + eh->e_phnum * sizeof(Elf64_Phdr) > im->size)
		return -ENOEXEC;
	im->ph = (const void *)(im->bytes + eh->e_phoff);
	im->nph = eh->e_phnum;
	im->entry = eh->e_entry;
	for (i = 0; i < im->nph; i++) {
		const Elf64_Phdr *p = &im->ph[i];

		if (p->p_type == PT_DYNAMIC)
			im->dynamic = p;
		if (p->p_type == PT_TLS || p->p_type == PT_INTERP)
			return -ENOEXEC;
		if (p->p_type != PT_LOAD)
			continue;
		if (p->p_offset + p->p_filesz > im->size || (p->p_vaddr - p->p_offset) % PAGE)
			return -ENOEXEC;
		if (up(p->p_vaddr + p->p_memsz) > im->span)
			im->span = up(p->p_vaddr + p->p_memsz);
	}
	return im->span ? 0 : -ENOEXEC;
}

int kp_image_open(struct kp_image *im, const char *path)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC), err;
	void *at;

	memset(im, 0, sizeof(*im));
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) || st.st_size <= 0) {
		close(fd);
		return -ENOEXEC;
	}
	at = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	if (at == MAP_FAILED)
		return -ENOMEM;
	im->bytes = at;
	im->size = (size_t)st.st_size;
	err = check(im);
	if (err)
		kp_image_close(im);
	return err;
}

void kp_image_close(struct kp_image *im)
{
	if (im->bytes)
		munmap((void *)im->bytes, im->size);
	im->bytes = NULL;
}

/* What is not zero of the file, into the process's memfd. */
static int fill_memfd(const struct kp_image *im, struct kp_remote *r, long fd)
{
	static const char zeros[PAGE];
	char path[64];
	size_t at;
	int out, err = 0;

	snprintf(path, sizeof(path), "task/%d/fd/%ld", r->th->tid, fd);
	kp_step();
	out = openat(r->t->proc, path, O_RDWR | O_CLOEXEC);
	if (out < 0)
		return -errno;
	if (ftruncate(out, (off_t)im->size))
		err = -errno;
	for (at = 0; at < im->size && !err; at += PAGE) {
		size_t len = im->size - at < PAGE ? im->size - at : PAGE;

		if (!memcmp(im->bytes + at, zeros, len))
			continue;
		if (pwrite(out, im->bytes + at, len, (off_t)at) != (ssize_t)len)
			err = errno ? -errno : -EIO;
	}
	close(out);
	return err;
}

static int protection(const Elf64_Phdr *p)
{
	return (p->p_flags & PF_R ? PROT_READ : 0) | (p->p_flags & PF_W ? PROT_WRITE : 0) |
	       (p->p_flags & PF_X ? PROT_EXEC : 0);
}

/* One segment: what the file has, then zeros; the tail of its last page is written from here. */
static long map_segment(struct kp_remote *r, const Elf64_Phdr *p, u64 base, long fd)
{
	u64 lo = down(p->p_vaddr), file = up(p->p_vaddr + p->p_filesz);
	u64 end = up(p->p_vaddr + p->p_memsz), tail = p->p_vaddr + p->p_filesz;
	static const char zeros[PAGE];
	long ret = 0;

	if (p->p_filesz)
		ret = kp_remote(r, SYS_mmap,
				(u64[6]){ base + lo, file - lo, protection(p), MAP_PRIVATE | MAP_FIXED,
					  fd, down(p->p_offset) },
				KP_KEEP_NOTHING);
	if (ret >= 0 && (p->p_flags & PF_W) && file > tail)
		ret = kp_write(r->t, base + tail, zeros, file - tail);
	if (ret >= 0 && end > file)
		ret = kp_remote(r, SYS_mmap,
				(u64[6]){ base + file, end - file, protection(p),
					  MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS, (u64)-1, 0 },
				KP_KEEP_NOTHING);
	return ret > 0 ? 0 : ret;
}

static u64 dynamic(const struct kp_image *im, Elf64_Sxword tag)
{
	const Elf64_Dyn *d = (const void *)(im->bytes + im->dynamic->p_offset);
	size_t i;

	for (i = 0; i < im->dynamic->p_filesz / sizeof(*d) && d[i].d_tag != DT_NULL; i++)
		if (d[i].d_tag == tag)
			return d[i].d_un.d_val;
	return 0;
}

/* The tables of the dynamic section lie in the first segment, where offset and address agree. */
static int relocate(const struct kp_image *im, struct kp_target *t, u64 base)
{
	u64 at = im->dynamic ? dynamic(im, DT_RELA) : 0, size = at ? dynamic(im, DT_RELASZ) : 0, i;
	const Elf64_Rela *rela = (const void *)(im->bytes + at);
	int err = 0;

	if (at + size > im->size)
		return -ENOEXEC;
	for (i = 0; i < size / sizeof(*rela) && !err; i++) {
		u64 value = base + (u64)rela[i].r_addend;

		if (ELF64_R_TYPE(rela[i].r_info) != R_X86_64_RELATIVE ||
		    rela[i].r_offset + 8 > im->span)
			return -ENOEXEC;
		err = kp_write(t, base + rela[i].r_offset, &value, sizeof(value));
	}
	return err;
}

int kp_image_map(const struct kp_image *im, struct kp_remote *r, const char *name, u64 *base)
{
	u64 text, where;
	long fd, ret;
	int i;

	/* one reservation, so that one munmap undoes it all */
	r->now.r12 = im->span;
	ret = kp_remote(r, SYS_mmap,
			(u64[6]){ 0, im->span, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
				  (u64)-1, 0 },
			KP_KEEP_REGION);
	if (ret < 0 && ret > -4096)
		return (int)ret;
	where = (u64)ret;
	text = kp_remote_text(r, name);
	if (!text)
		return -EFAULT;
	fd = kp_remote(r, SYS_memfd_create, (u64[6]){ text, MFD_CLOEXEC, 0, 0, 0, 0 }, KP_KEEP_FD);
	if (fd < 0)
		return (int)fd;
	ret = fill_memfd(im, r, fd);
	for (i = 0; i < im->nph && ret >= 0; i++)
		if (im->ph[i].p_type == PT_LOAD)
			ret = map_segment(r, &im->ph[i], where, fd);
	r->now.r14 = (u64)-1;
	kp_remote(r, SYS_close, (u64[6]){ (u64)fd, 0, 0, 0, 0, 0 }, KP_KEEP_NOTHING);
	if (ret >= 0)
		ret = relocate(im, r->t, where);
	*base = where;
	return (int)ret;
}

void kp_image_unmap(struct kp_remote *r)
{
	u64 size = r->now.r12;

	/* from the register write on that begins the call, it is made whoever dies: once */
	r->now.r12 = 0;
	if (size)
		kp_remote(r, SYS_munmap, (u64[6]){ r->now.rbp, size, 0, 0, 0, 0 }, KP_KEEP_NOTHING);
}
