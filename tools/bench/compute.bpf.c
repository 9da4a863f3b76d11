// SPDX-License-Identifier: GPL-2.0
/* compute_programs.h for BPF. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define PROGRAM(name) \
	SEC("xdp") \
	int name(struct xdp_md *ctx)
#define CPU() ((unsigned long long)bpf_get_smp_processor_id())
#define PID_TGID() bpf_get_current_pid_tgid()

#pragma clang diagnostic ignored "-Wunused-parameter"
#include "compute_programs.h"

char LICENSE[] SEC("license") = "GPL";
