"""One row a helper: number, kinds of its arguments, kind of its result, flags, name.

Source: linux/bpf.h (the comments of enum bpf_func_id); the prototypes of Linux 6.18 (struct
bpf_func_proto), asked for by calls that the kernel refuses. Words are explained in helpers.py.
"""

from __future__ import annotations

from typing import Final

# flags: g GPL only, d moves packet data, p takes packet pointers, c asks for the CPU's number,
# s may sleep, n not for programs that are at no place of the kernel's that is known to be safe
ROWS: Final[tuple[tuple[int, str, str, str], ...]] = (
    (1, "map key", "value?", "p"),  # map_lookup_elem
    (2, "map key value any", "int", "p"),  # map_update_elem
    (3, "map key", "int", "p"),  # map_delete_elem
    (4, "out size0 any", "int", "g"),  # probe_read
    (5, "", "int", ""),  # ktime_get_ns
    (6, "mem size", "int", "g"),  # trace_printk
    (7, "", "int", ""),  # get_prandom_u32
    (8, "", "int", "c"),  # get_smp_processor_id
    (9, "ctx any mem size any", "int", "d"),  # skb_store_bytes
    (10, "ctx any any any any", "int", "d"),  # l3_csum_replace
    (11, "ctx any any any any", "int", "d"),  # l4_csum_replace
    (12, "ctx map any", "void", ""),  # tail_call
    (13, "ctx any any", "int", "d"),  # clone_redirect
    (14, "", "int", ""),  # get_current_pid_tgid
    (15, "", "int", ""),  # get_current_uid_gid
    (16, "out size", "int", ""),  # get_current_comm
    (17, "", "int", ""),  # get_cgroup_classid
    (18, "ctx any any", "int", "d"),  # skb_vlan_push
    (19, "ctx", "int", "d"),  # skb_vlan_pop
    (20, "ctx out size any", "int", ""),  # skb_get_tunnel_key
    (21, "ctx mem size any", "int", ""),  # skb_set_tunnel_key
    (22, "map any", "int", "g"),  # perf_event_read
    (23, "any any", "int", ""),  # redirect
    (24, "ctx", "int", ""),  # get_route_realm
    (25, "ctx map any mem size0", "int", "gc"),  # perf_event_output
    (26, "ctx any out size", "int", ""),  # skb_load_bytes
    (27, "ctx map any", "int", "g"),  # get_stackid
    (28, "mem? size0 mem? size0 any", "int", "p"),  # csum_diff
    (29, "ctx out size", "int", ""),  # skb_get_tunnel_opt
    (30, "ctx mem size", "int", ""),  # skb_set_tunnel_opt
    (31, "ctx any any", "int", "d"),  # skb_change_proto
    (32, "ctx any", "int", ""),  # skb_change_type
    (33, "ctx map any", "int", ""),  # skb_under_cgroup
    (34, "ctx", "int", ""),  # get_hash_recalc
    (35, "", "int", "g"),  # get_current_task
    (36, "any mem size", "int", "g"),  # probe_write_user
    (37, "map any", "int", ""),  # current_task_under_cgroup
    (38, "ctx any any", "int", "d"),  # skb_change_tail
    (39, "ctx any", "int", "d"),  # skb_pull_data
    (40, "ctx any", "int", ""),  # csum_update
    (41, "ctx", "int", ""),  # set_hash_invalid
    (42, "", "int", "c"),  # get_numa_node_id
    (43, "ctx any any", "int", "d"),  # skb_change_head
    (44, "ctx any", "int", "d"),  # xdp_adjust_head
    (45, "out size0 any", "int", "g"),  # probe_read_str
    (46, "ctx", "int", ""),  # get_socket_cookie
    (47, "ctx", "int", ""),  # get_socket_uid
    (48, "ctx any", "int", ""),  # set_hash
    (49, "ctx any any mem size", "int", ""),  # setsockopt
    (50, "ctx any any any", "int", "d"),  # skb_adjust_room
    (51, "map any any", "int", ""),  # redirect_map
    (52, "ctx map any any", "int", ""),  # sk_redirect_map
    (53, "ctx map key any", "int", "p"),  # sock_map_update
    (54, "ctx any", "int", "d"),  # xdp_adjust_meta
    (55, "map any out size", "int", "gc"),  # perf_event_read_value
    (56, "ctx out size", "int", "g"),  # perf_prog_read_value
    (57, "ctx any any out size", "int", ""),  # getsockopt
    (58, "ctx any", "int", "g"),  # override_return
    (59, "ctx any", "int", ""),  # sock_ops_cb_flags_set
    (60, "ctx map any any", "int", ""),  # msg_redirect_map
    (61, "ctx any", "int", ""),  # msg_apply_bytes
    (62, "ctx any", "int", ""),  # msg_cork_bytes
    (63, "ctx any any any", "int", "d"),  # msg_pull_data
    (64, "ctx mem size", "int", ""),  # bind
    (65, "ctx any", "int", "d"),  # xdp_adjust_tail
    (66, "ctx any out size any", "int", ""),  # skb_get_xfrm_state
    (67, "ctx out size0 any", "int", "g"),  # get_stack
    (68, "ctx any out size any", "int", ""),  # skb_load_bytes_relative
    (69, "ctx inout size any", "int", "g"),  # fib_lookup
    (70, "ctx map key any", "int", "p"),  # sock_hash_update
    (71, "ctx map key any", "int", ""),  # msg_redirect_hash
    (72, "ctx map key any", "int", ""),  # sk_redirect_hash
    (73, "ctx any mem size", "int", "d"),  # lwt_push_encap
    (74, "ctx any mem size", "int", "d"),  # lwt_seg6_store_bytes
    (75, "ctx any any", "int", "d"),  # lwt_seg6_adjust_srh
    (76, "ctx any mem size", "int", "d"),  # lwt_seg6_action
    (77, "ctx", "int", ""),  # rc_repeat
    (78, "ctx any any any", "int", ""),  # rc_keydown
    (79, "ctx", "int", ""),  # skb_cgroup_id
    (80, "", "int", ""),  # get_current_cgroup_id
    (81, "map any", "value", ""),  # get_local_storage
    (82, "ctx map key any", "int", ""),  # sk_select_reuseport
    (83, "ctx any", "int", ""),  # skb_ancestor_cgroup_id
    (84, "ctx mem size0 any any", "socket?", "p"),  # sk_lookup_tcp
    (85, "ctx mem size0 any any", "socket?", "p"),  # sk_lookup_udp
    (86, "bsk!", "int", ""),  # sk_release
    (87, "map value any", "int", "p"),  # map_push_elem
    (88, "map value*", "int", ""),  # map_pop_elem
    (89, "map value*", "int", ""),  # map_peek_elem
    (90, "ctx any any any", "int", "d"),  # msg_push_data
    (91, "ctx any any any", "int", "d"),  # msg_pop_data
    (92, "ctx any any", "int", "g"),  # rc_pointer_rel
    (93, "lock", "void", ""),  # spin_lock
    (94, "lock", "void", ""),  # spin_unlock
    (95, "sk", "socket?", ""),  # sk_fullsock
    (96, "sk", "tcp_sock?", ""),  # tcp_sock
    (97, "ctx", "int", ""),  # skb_ecn_set_ce
    (98, "sk", "socket?", ""),  # get_listener_sock
    (99, "ctx mem size0 any any", "sock_common?", "p"),  # skc_lookup_tcp
    (100, "bsk mem size mem size", "int", "gp"),  # tcp_check_syncookie
    (101, "ctx inout size any", "int", ""),  # sysctl_get_name
    (102, "ctx out size", "int", ""),  # sysctl_get_current_value
    (103, "ctx out size", "int", ""),  # sysctl_get_new_value
    (104, "ctx mem size", "int", ""),  # sysctl_set_new_value
    (105, "mem size any u64", "int", ""),  # strtol
    (106, "mem size any u64", "int", ""),  # strtoul
    (107, "map bsk value? any", "value?", ""),  # sk_storage_get
    (108, "map bsk", "int", ""),  # sk_storage_delete
    (109, "any", "int", ""),  # send_signal
    (110, "bsk mem size mem size", "int", "gp"),  # tcp_gen_syncookie
    (111, "@sk_buff map any mem size0", "int", "g"),  # skb_output
    (112, "out size0 any", "int", "g"),  # probe_read_user
    (113, "out size0 any", "int", "g"),  # probe_read_kernel
    (114, "out size0 any", "int", "g"),  # probe_read_user_str
    (115, "out size0 any", "int", "g"),  # probe_read_kernel_str
    (116, "@tcp_sock any", "int", ""),  # tcp_send_ack
    (117, "any", "int", ""),  # send_signal_thread
    (118, "", "int", ""),  # jiffies64
    (119, "ctx inout? size0 any", "int", "g"),  # read_branch_records
    (120, "any any out size", "int", ""),  # get_ns_current_pid_tgid
    (121, "@xdp_buff map any mem size0", "int", "g"),  # xdp_output
    (122, "ctx?", "int", ""),  # get_netns_cookie
    (123, "any", "int", ""),  # get_current_ancestor_cgroup_id
    (124, "ctx bsk any", "int", ""),  # sk_assign
    (125, "", "int", ""),  # ktime_get_boot_ns
    (126, "@seq_file mem size mem? size0", "int", "g"),  # seq_printf
    (127, "@seq_file mem size0", "int", "g"),  # seq_write
    (128, "bsk", "int", ""),  # sk_cgroup_id
    (129, "bsk any", "int", ""),  # sk_ancestor_cgroup_id
    (130, "map mem size0 any", "int", ""),  # ringbuf_output
    (131, "map alloc any", "record?", ""),  # ringbuf_reserve
    (132, "record! any", "void", ""),  # ringbuf_submit
    (133, "record! any", "void", ""),  # ringbuf_discard
    (134, "map any", "int", ""),  # ringbuf_query
    (135, "ctx any", "int", ""),  # csum_level
    (136, "bsk", "@tcp6_sock?", ""),  # skc_to_tcp6_sock
    (137, "bsk", "@tcp_sock?", ""),  # skc_to_tcp_sock
    (138, "bsk", "@tcp_timewait_sock?", ""),  # skc_to_tcp_timewait_sock
    (139, "bsk", "@tcp_request_sock?", ""),  # skc_to_tcp_request_sock
    (140, "bsk", "@udp6_sock?", ""),  # skc_to_udp6_sock
    (141, "@task_struct out size0 any", "int", ""),  # get_task_stack
    (142, "ctx inout size any", "int", ""),  # load_hdr_opt
    (143, "ctx mem size any", "int", "d"),  # store_hdr_opt
    (144, "ctx any any", "int", ""),  # reserve_hdr_opt
    (145, "map @inode? value? any", "value?", ""),  # inode_storage_get
    (146, "map @inode?", "int", ""),  # inode_storage_delete
    (147, "@path inout size0", "int", ""),  # d_path
    (148, "out size0 any", "int", "s"),  # copy_from_user
    (149, "inout size mem size any", "int", ""),  # snprintf_btf
    (150, "@seq_file mem size0 any", "int", "g"),  # seq_printf_btf
    (151, "ctx", "int", ""),  # skb_cgroup_classid
    (152, "any mem? size0 any", "int", ""),  # redirect_neigh
    (153, "percpu any", "percpu?", ""),  # per_cpu_ptr
    (154, "percpu", "percpu", ""),  # this_cpu_ptr
    (155, "any any", "int", ""),  # redirect_peer
    (156, "map @task_struct? value? any", "value?", ""),  # task_storage_get
    (157, "map @task_struct?", "int", ""),  # task_storage_delete
    (158, "", "@task_struct", "g"),  # get_current_task_btf
    (159, "@linux_binprm any", "int", ""),  # bprm_opts_set
    (160, "", "int", ""),  # ktime_get_coarse_ns
    (161, "@inode out size", "int", "s"),  # ima_inode_hash
    (162, "@file", "@socket?", ""),  # sock_from_file
    (163, "ctx any u32 any any", "int", "g"),  # check_mtu
    (164, "map func stack? any", "int", ""),  # for_each_map_elem
    (165, "inout? size0 str mem? size0", "int", "g"),  # snprintf
    (166, "any mem size", "int", ""),  # sys_bpf
    (167, "mem size any any", "int", ""),  # btf_find_by_name_kind
    (168, "any", "int", ""),  # sys_close
    (169, "timer map any", "int", "g"),  # timer_init
    (170, "timer func", "int", "g"),  # timer_set_callback
    (171, "timer any any", "int", "g"),  # timer_start
    (172, "timer", "int", "g"),  # timer_cancel
    (173, "ctx", "int", "g"),  # get_func_ip
    (174, "ctx", "int", ""),  # get_attach_cookie
    (175, "@task_struct", "@pt_regs", "g"),  # task_pt_regs
    (176, "out size0", "int", "g"),  # get_branch_snapshot
    (177, "mem size mem? size0", "int", "g"),  # trace_vprintk
    (178, "bsk", "@unix_sock?", ""),  # skc_to_unix_sock
    (179, "mem size0 any u64", "int", ""),  # kallsyms_lookup_name
    (180, "@task_struct any func stack? any", "int", ""),  # find_vma
    (181, "any func stack? any", "int", ""),  # loop
    (182, "mem size str", "int", ""),  # strncmp
    (183, "ctx any u64", "int", ""),  # get_func_arg
    (184, "ctx u64", "int", ""),  # get_func_ret
    (185, "ctx", "int", ""),  # get_func_arg_cnt
    (186, "", "int", ""),  # get_retval
    (187, "any", "int", ""),  # set_retval
    (188, "ctx", "int", ""),  # xdp_get_buff_len
    (189, "ctx any out size", "int", ""),  # xdp_load_bytes
    (190, "ctx any mem size", "int", ""),  # xdp_store_bytes
    (191, "out size0 any @task_struct any", "int", "gs"),  # copy_from_user_task
    (192, "ctx any any", "int", ""),  # skb_set_tstamp
    (193, "@file out size", "int", "s"),  # ima_file_hash
    (194, "kptr @?", "@?", ""),  # kptr_xchg
    (195, "map key any", "value?", "pc"),  # map_lookup_percpu_elem
    (196, "sk", "@mptcp_sock?", ""),  # skc_to_mptcp_sock
    (197, "out size0 any dynptr:local*", "int", ""),  # dynptr_from_mem
    (198, "map any any dynptr:ringbuf*", "int", ""),  # ringbuf_reserve_dynptr
    (199, "dynptr:ringbuf! any", "void", ""),  # ringbuf_submit_dynptr
    (200, "dynptr:ringbuf! any", "void", ""),  # ringbuf_discard_dynptr
    (201, "out size0 dynptr any any", "int", ""),  # dynptr_read
    (202, "dynptr any mem size0 any", "int", ""),  # dynptr_write
    (203, "dynptr any alloc", "mem?", ""),  # dynptr_data
    (204, "ip4 mem size0", "int", "gp"),  # tcp_raw_gen_syncookie_ipv4
    (205, "ip6 mem size0", "int", "gp"),  # tcp_raw_gen_syncookie_ipv6
    (206, "ip4 tcp", "int", "gp"),  # tcp_raw_check_syncookie_ipv4
    (207, "ip6 tcp", "int", "gp"),  # tcp_raw_check_syncookie_ipv6
    (208, "", "int", ""),  # ktime_get_tai_ns
    (209, "map func stack? any", "int", ""),  # user_ringbuf_drain
    (210, "map @cgroup? value? any", "value?", ""),  # cgrp_storage_get
    (211, "map @cgroup?", "int", ""),  # cgrp_storage_delete
)
# Where programs of a type, or of some, have a prototype of their own: types, helper, as above.
_SKB: Final = (3, 4, 10, 11, 12, 19)
_BTF: Final = (26, 29, 31)  # TRACING, LSM, SYSCALL
OF_TYPE: Final[tuple[tuple[tuple[int, ...], int, str, str, str], ...]] = (
    (_SKB, 17, "ctx", "int", ""),
    ((7,), 27, "ctx map any", "int", ""),
    ((21, *_BTF), 46, "bsk?", "int", ""),
    ((25,), 49, "bsk any any mem size", "int", ""),
    ((25,), 57, "bsk any any out size", "int", ""),
    ((9,), 107, "map ctx value? any", "value?", ""),
    ((26,), 107, "map @sock_common? value? any", "value?", ""),
    ((26,), 108, "map @sock_common?", "int", ""),
    ((31,), 107, "map @sock_common? value? any", "value?", "n"),
    ((31,), 108, "map @sock_common?", "int", "n"),
    ((31,), 147, "@path inout size0", "int", "n"),
    ((30,), 124, "ctx socket? any", "int", ""),
    (_BTF, 188, "@xdp_buff", "int", ""),
    (_BTF, 183, "ctx any u64", "int", ""),
    (_BTF, 184, "ctx u64", "int", ""),
    (_BTF, 185, "ctx", "int", ""),
    (_BTF, 49, "bsk any any mem size", "int", ""),
    (_BTF, 57, "bsk any any out size", "int", ""),
    ((27,), 49, "bsk any any mem size", "int", ""),
    ((27,), 57, "bsk any any out size", "int", ""),
)
