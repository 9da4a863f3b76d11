/* The agent's image as a file here and as memory there (image.c). */
#ifndef KEEPER_IMAGE_H
#define KEEPER_IMAGE_H

#include <elf.h>

#include "remote.h"

struct kp_image {
	const char *bytes;
	size_t size;
	const Elf64_Phdr *ph;
	const Elf64_Phdr *dynamic;
	int nph;
	u64 entry; /* agent_image_start, from the beginning of the image */
	u64 span; /* bytes it takes there */
};

/* -ENOENT, -ENOEXEC: not an image as the keeper maps them. */
int kp_image_open(struct kp_image *im, const char *path);
void kp_image_close(struct kp_image *im);
/* Into the process of r, as memfd:NAME; on failure kp_image_unmap undoes it. */
int kp_image_map(const struct kp_image *im, struct kp_remote *r, const char *name, u64 *base);
/* The memory at now.rbp, now.r12 goes. */
void kp_image_unmap(struct kp_remote *r);

#endif
