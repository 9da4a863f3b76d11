#include "core.h"

#define EMPTY(section, function) \
	SEC(section) int function(void *ctx) \
	{ \
		return 0; \
	}

EMPTY("tp_btf/sched_switch", on_tp_btf)
EMPTY("fentry/do_exit", on_fentry)
EMPTY("fexit.s/vfs_read", on_fexit)
EMPTY("fentry/no_such_function_at_all", on_fentry_absent)
EMPTY("fmod_ret/security_file_open", on_fmod_ret)
EMPTY("lsm/file_open", on_lsm)
EMPTY("lsm.s/file_open", on_lsm_sleepable)
EMPTY("iter/task", on_iter)
EMPTY("iter.s/bpf_map", on_iter_sleepable)
EMPTY("raw_tp.w/sched_switch", on_raw_writable)
EMPTY("syscall", on_from_syscall)
EMPTY("perf_event", on_perf)
EMPTY("xdp", on_xdp)
EMPTY("xdp.frags", on_xdp_frags)
EMPTY("xdp/devmap", on_xdp_devmap)
EMPTY("tc", on_tc)
EMPTY("socket", on_socket)
EMPTY("cgroup_skb/egress", on_egress)
EMPTY("cgroup/connect4", on_connect4)
EMPTY("sockops", on_sockops)
EMPTY("sk_lookup", on_sk_lookup)
EMPTY("ksyscall/openat", on_ksyscall)
EMPTY("usdt", on_usdt)
EMPTY("uprobe.s/x:y", on_sleepable)
EMPTY("kprobe.multi/do_*", on_multi)
EMPTY("?uprobe", on_on_demand)
EMPTY("?tp/syscalls/sys_enter_open", on_on_demand_too)
