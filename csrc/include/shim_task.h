/*
 * What programs find behind bpf_get_current_task(): addresses of no memory, whose reads are
 * answered field by field by the process that runs (csrc/runtime/task.c). Where a field lies is
 * what the BTF says that loaders are shown; the backend puts it into the control page.
 */
#ifndef SHIM_TASK_H
#define SHIM_TASK_H

#include "shim_types.h"

/* An address: 'base', then which structure, whose (a thread's number), and the offset in it. It is
 * in the kernel's half, where no process has memory. */
enum {
	SHIM_TASK_OFF_BITS = 14,
	SHIM_TASK_TID_BITS = 22, /* PID_MAX_LIMIT */
	SHIM_TASK_KIND_BITS = 4,
	SHIM_TASK_KIND_SHIFT = 36, /* of OFF and TID */
};

/* Structures. 0 is none, so that 'base' itself is no address. */
enum {
	SHIM_TASK_TASK = 1, /* struct task_struct */
	SHIM_TASK_CRED = 2,
	SHIM_TASK_PID = 3, /* struct pid */
	SHIM_TASK_NSPROXY = 4,
	SHIM_TASK_MNT_NS = 5, /* struct mnt_namespace, and so on */
	SHIM_TASK_UTS_NS = 6,
	SHIM_TASK_IPC_NS = 7,
	SHIM_TASK_PID_NS = 8,
	SHIM_TASK_NET_NS = 9,
	SHIM_TASK_CGROUP_NS = 10,
	SHIM_TASK_TIME_NS = 11,
	SHIM_TASK_USER_NS = 12,
	SHIM_TASK_PID_NS_CHILDREN = 13, /* pid_ns_for_children */
};

/* Fields, by the name of the structure and the path in it. Index into shim_ctl.task[]; Python
 * takes structure and path from the name (btf/task.py): two underscores are a dot there. */
enum {
	SHIM_FIELD_task_struct__pid = 0,
	SHIM_FIELD_task_struct__tgid = 1,
	SHIM_FIELD_task_struct__comm = 2,
	SHIM_FIELD_task_struct__real_parent = 3,
	SHIM_FIELD_task_struct__parent = 4,
	SHIM_FIELD_task_struct__group_leader = 5,
	SHIM_FIELD_task_struct__exit_code = 6,
	SHIM_FIELD_task_struct__exit_signal = 7,
	SHIM_FIELD_task_struct__start_time = 8,
	SHIM_FIELD_task_struct__start_boottime = 9,
	SHIM_FIELD_task_struct__flags = 10,
	SHIM_FIELD_task_struct__state = 11, /* "__state" */
	SHIM_FIELD_task_struct__prio = 12,
	SHIM_FIELD_task_struct__static_prio = 13,
	SHIM_FIELD_task_struct__loginuid = 14,
	SHIM_FIELD_task_struct__sessionid = 15,
	SHIM_FIELD_task_struct__nsproxy = 16,
	SHIM_FIELD_task_struct__cred = 17,
	SHIM_FIELD_task_struct__real_cred = 18,
	SHIM_FIELD_task_struct__thread_pid = 19,
	SHIM_FIELD_cred__uid = 20,
	SHIM_FIELD_cred__gid = 21,
	SHIM_FIELD_cred__suid = 22,
	SHIM_FIELD_cred__sgid = 23,
	SHIM_FIELD_cred__euid = 24,
	SHIM_FIELD_cred__egid = 25,
	SHIM_FIELD_cred__fsuid = 26,
	SHIM_FIELD_cred__fsgid = 27,
	SHIM_FIELD_cred__cap_inheritable = 28,
	SHIM_FIELD_cred__cap_permitted = 29,
	SHIM_FIELD_cred__cap_effective = 30,
	SHIM_FIELD_cred__user_ns = 31,
	SHIM_FIELD_pid__level = 32,
	SHIM_FIELD_pid__numbers = 33, /* one struct upid: as the process sees itself */
	SHIM_FIELD_nsproxy__mnt_ns = 34,
	SHIM_FIELD_nsproxy__uts_ns = 35,
	SHIM_FIELD_nsproxy__ipc_ns = 36,
	SHIM_FIELD_nsproxy__net_ns = 37,
	SHIM_FIELD_nsproxy__cgroup_ns = 38,
	SHIM_FIELD_nsproxy__time_ns = 39,
	SHIM_FIELD_nsproxy__pid_ns_for_children = 40,
	SHIM_FIELD_mnt_namespace__ns__inum = 41,
	SHIM_FIELD_uts_namespace__ns__inum = 42,
	SHIM_FIELD_uts_namespace__name__nodename = 43,
	SHIM_FIELD_ipc_namespace__ns__inum = 44,
	SHIM_FIELD_pid_namespace__ns__inum = 45,
	SHIM_FIELD_net__ns__inum = 46,
	SHIM_FIELD_cgroup_namespace__ns__inum = 47,
	SHIM_FIELD_time_namespace__ns__inum = 48,
	SHIM_FIELD_user_namespace__ns__inum = 49,
	SHIM_TASK_FIELDS = 50,
	SHIM_MAX_TASK_FIELDS = 64,
};

/* Where a field lies: bytes. len 0: the structure has none. */
struct shim_task_place {
	u16 off;
	u16 len;
};

#endif
