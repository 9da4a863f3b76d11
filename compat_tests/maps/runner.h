/* A program that does to a map what its context says: BPF_PROG_TYPE_SYSCALL, run by PROG_TEST_RUN. */
#ifndef RUNNER_H
#define RUNNER_H

#include <linux/bpf.h>
#include <stdint.h>

enum { RUN_KEY = 64, RUN_VALUE = 104, RUN_STACK = RUN_KEY + RUN_VALUE };

struct run_ctx {
	uint64_t what, flags; /* 0 lookup, 1 update, 2 delete */
	uint8_t key[RUN_KEY], value[RUN_VALUE];
};

/* PROG_LOAD of the program for a map. */
static union bpf_attr *runner_attr(int map)
{
	static struct bpf_insn code[2 * RUN_STACK / 8 + 24];
	static union bpf_attr a;
	struct bpf_insn *at = code;

	a = (union bpf_attr){ .prog_type = BPF_PROG_TYPE_SYSCALL,
			      .prog_flags = BPF_F_SLEEPABLE,
			      .insns = (uintptr_t)code,
			      .license = (uintptr_t) "GPL" };

#define I(...) *at++ = (struct bpf_insn){ __VA_ARGS__ }
	I(.code = 0xbf, .dst_reg = 6, .src_reg = 1);
	for (int16_t i = 0; i < RUN_STACK; i += 8) {
		I(.code = 0x79, .dst_reg = 0, .src_reg = 6, .off = (int16_t)(16 + i));
		I(.code = 0x7b, .dst_reg = 10, .src_reg = 0, .off = (int16_t)(i - RUN_STACK));
	}
	I(.code = 0x79, .dst_reg = 7, .src_reg = 6);
	I(.code = 0x79, .dst_reg = 4, .src_reg = 6, .off = 8);
	I(.code = 0xbf, .dst_reg = 2, .src_reg = 10);
	I(.code = 0x07, .dst_reg = 2, .imm = -RUN_STACK);
	I(.code = 0xbf, .dst_reg = 3, .src_reg = 10);
	I(.code = 0x07, .dst_reg = 3, .imm = RUN_KEY - RUN_STACK);
	I(.code = 0x18, .dst_reg = 1, .src_reg = BPF_PSEUDO_MAP_FD, .imm = map);
	I(.code = 0);
	I(.code = 0x15, .dst_reg = 7, .imm = 1, .off = 5);
	I(.code = 0x15, .dst_reg = 7, .imm = 2, .off = 6);
	I(.code = 0x85, .imm = BPF_FUNC_map_lookup_elem);
	I(.code = 0x15, .dst_reg = 0, .off = 1);
	I(.code = 0xb7, .dst_reg = 0, .imm = 1);
	I(.code = 0x95);
	I(.code = 0x85, .imm = BPF_FUNC_map_update_elem);
	I(.code = 0x95);
	I(.code = 0x85, .imm = BPF_FUNC_map_delete_elem);
	I(.code = 0x95);
#undef I
	a.insn_cnt = (uint32_t)(at - code);
	return &a;
}

#endif
