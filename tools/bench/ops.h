/* What ops.bpf.c and ops.c have in common. */
#ifndef OPS_H
#define OPS_H

enum { LOOPS = 16, RING = 4 << 20, RECORD = 72 };

#endif
