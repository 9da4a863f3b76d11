/* What ops.bpf.c and ops.c have in common. */
#ifndef OPS_H
#define OPS_H

enum { LOOPS = 16, RING = 512 << 10, RECORD = 72 };

#endif
