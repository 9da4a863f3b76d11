"""Hooks of security modules: which are closed to programs, which may sleep, what they return.

Facts of Linux 6.18 (kernel/bpf/bpf_lsm.c), names without bpf_lsm_. A hook is one if the kernel's
BTF has a function of that name.
"""

from __future__ import annotations

from typing import Final

PREFIX: Final = "bpf_lsm_"
# Functions of that prefix that are no hooks.
_OTHERS: Final = frozenset((
    "find_cgroup_shim verify_prog func_proto is_sleepable_hook is_trusted get_retval_range "
    "init has_d_inode_locked hook_returns_errno"
).split())
# Not for programs.
DISABLED: Final = frozenset((
    "audit_rule_match getprocattr getselfattr inode_copy_up_xattr inode_getsecurity "
    "inode_listsecurity inode_need_killpriv ismaclabel key_getsecurity setprocattr "
    "vm_enough_memory"
).split())
# Whose programs may sleep.
SLEEPABLE: Final = frozenset((
    "bpf bpf_map bpf_map_create bpf_map_free bpf_prog bpf_prog_free bpf_prog_load "
    "bpf_token_capable bpf_token_cmd bpf_token_create bpf_token_free bprm_check_security "
    "bprm_committed_creds bprm_committing_creds bprm_creds_for_exec bprm_creds_from_file "
    "capget capset cred_prepare file_ioctl file_lock file_open file_post_open file_receive "
    "inet_conn_established inode_create inode_free_security inode_getattr inode_getxattr "
    "inode_mknod inode_need_killpriv inode_post_removexattr inode_post_setxattr "
    "inode_readlink inode_removexattr inode_rename inode_rmdir inode_setattr inode_setxattr "
    "inode_symlink inode_unlink kernel_module_request kernel_read_file kernfs_init_security "
    "mmap_file netlink_send path_chmod path_chown path_link path_mkdir path_notify "
    "path_rename path_rmdir path_symlink path_truncate path_unlink release_secctx "
    "sb_alloc_security sb_eat_lsm_opts sb_kern_mount sb_mount sb_remount sb_set_mnt_opts "
    "sb_show_options sb_statfs sb_umount settime socket_accept socket_bind socket_connect "
    "socket_create socket_getpeername socket_getpeersec_dgram socket_getsockname "
    "socket_getsockopt socket_listen socket_post_create socket_recvmsg socket_sendmsg "
    "socket_shutdown socket_socketpair syslog task_alloc task_prctl task_setscheduler "
    "task_to_inode userns_create"
).split())
# Whose arguments are not to be trusted.
UNTRUSTED: Final = frozenset((
    "bpf_map_free bpf_prog_free file_alloc_security file_free_security sk_alloc_security "
    "sk_free_security task_free"
).split())
# That return 0 or 1; of the others, -4095 to 0.
BOOL: Final = frozenset((
    "audit_rule_known inode_xattr_skipcap xfrm_state_pol_flow_match"
).split())


def returns(name: str) -> tuple[int, int]:
    """What a hook returns that returns something, and so what its programs may."""
    return (0, 1) if name.removeprefix(PREFIX) in BOOL else (-4095, 0)


def is_hook(name: str) -> bool:
    return name.startswith(PREFIX) and name.removeprefix(PREFIX) not in _OTHERS
