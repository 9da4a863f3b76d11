/* What ops.bpf.c and ops.c have in common. */
#ifndef OPS_H
#define OPS_H

enum { LOOPS = 16, RING = 512 << 10, RECORD = 72, TEXT = 32 /* with its NUL */ };

/* .rodata of ops.bpf.c */
struct where {
	unsigned long long user_at, nowhere_at;
};

#endif
