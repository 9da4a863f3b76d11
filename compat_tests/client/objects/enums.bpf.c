#include "core.h"

enum bpf_map_type___mine { BPF_MAP_TYPE_RINGBUF___x = 100, BPF_MAP_TYPE_NOSUCH = 101 };
enum pid_type { PIDTYPE_PID, PIDTYPE_SID = 7, PIDTYPE_NOSUCH = 9 };
enum nosuch_enum { NOSUCH_VALUE = 3 };

u64 out[8];

SEC("tp/syscalls/sys_enter_getpid")
int values(void *ctx)
{
	out[0] = bpf_core_enum_value(enum bpf_map_type___mine, BPF_MAP_TYPE_RINGBUF___x);
	out[1] = bpf_core_enum_value_exists(enum bpf_map_type___mine, BPF_MAP_TYPE_NOSUCH);
	out[2] = bpf_core_enum_value(enum pid_type, PIDTYPE_SID);
	out[3] = bpf_core_enum_value_exists(enum pid_type, PIDTYPE_PID);
	out[4] = bpf_core_enum_value_exists(enum nosuch_enum, NOSUCH_VALUE);
	if (bpf_core_enum_value_exists(enum pid_type, PIDTYPE_NOSUCH))
		out[5] = bpf_core_enum_value(enum pid_type, PIDTYPE_NOSUCH);
	out[6] = bpf_core_enum_value(enum nosuch_enum, NOSUCH_VALUE);
	return 0;
}
