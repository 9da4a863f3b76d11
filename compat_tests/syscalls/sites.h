/* Registers before and after a system call: sites.S knows the offsets. */
#ifndef SITES_H
#define SITES_H

#include <stdint.h>

struct state {
	uint64_t ax, bx, cx, dx, si, di, bp, r8, r9, r10, r11, r12, r13, r14, r15, flags;
	unsigned char xmm[16][16];
	uint64_t zone[16];
	uint64_t after;
};

typedef void site(struct state *in, struct state *out);
site plain, variable, several, shared, late, calling, returning, island;
long entry_call(void);

#endif
