"""Which kernel functions programs may call, and what is said of each: a table by name.

BTF has a function's types; its flags, and the program types that may call it, are not there.
Sources: flags from BTF_ID_FLAGS rows of Linux 6.18 (kernel/bpf/helpers.c, cpumask.c, arena.c,
net/core/filter.c, ...), all that show measured on 6.18.44; the sets by program type measured there
by loading a call of each of its 203 functions in every type. Types that the machine's policy does
not load (LSM) have the set of tracing programs and that of file systems, by the source.
"""

from __future__ import annotations

from typing import Final

ACQUIRE: Final = 1
RELEASE: Final = 2
RET_NULL: Final = 4
TRUSTED: Final = 8  # arguments are referenced or trusted
SLEEPABLE: Final = 16
RCU_ARGS: Final = 32  # arguments are trusted, or valid in the RCU section
ITER_NEW: Final = 64
ITER_NEXT: Final = 128
ITER_DESTROY: Final = 256
IN_RCU: Final = 512  # only in an RCU section; so is the result
ITER: Final = ITER_NEW | ITER_NEXT | ITER_DESTROY
_LETTERS: Final = {
    "a": ACQUIRE, "r": RELEASE, "n": RET_NULL, "t": TRUSTED, "s": SLEEPABLE, "u": RCU_ARGS,
    "N": ITER_NEW, "X": ITER_NEXT, "D": ITER_DESTROY, "p": IN_RCU,
}  # fmt: skip

# Of every program type: name:flags.
_COMMON: Final = """
__bpf_trap bpf_arena_alloc_pages:ts bpf_arena_free_pages:ts bpf_arena_reserve_pages:ts
bpf_cast_to_kern_ctx bpf_cgroup_read_xattr:u bpf_copy_from_user_dynptr:s bpf_copy_from_user_str:s
bpf_copy_from_user_str_dynptr:s bpf_copy_from_user_task_dynptr:st bpf_copy_from_user_task_str:s
bpf_copy_from_user_task_str_dynptr:st bpf_dynptr_adjust bpf_dynptr_clone bpf_dynptr_copy
bpf_dynptr_is_null bpf_dynptr_is_rdonly bpf_dynptr_memset bpf_dynptr_size bpf_dynptr_slice:n
bpf_dynptr_slice_rdwr:n bpf_get_kmem_cache bpf_iter_bits_destroy:D bpf_iter_bits_new:N
bpf_iter_bits_next:Xn bpf_iter_css_destroy:D bpf_iter_css_new:Ntp bpf_iter_css_next:Xn
bpf_iter_css_task_destroy:D bpf_iter_css_task_new:Nt bpf_iter_css_task_next:Xn
bpf_iter_dmabuf_destroy:Ds bpf_iter_dmabuf_new:Ns bpf_iter_dmabuf_next:Xns
bpf_iter_kmem_cache_destroy:Ds bpf_iter_kmem_cache_new:Ns bpf_iter_kmem_cache_next:Xns
bpf_iter_num_destroy:D bpf_iter_num_new:N bpf_iter_num_next:Xn bpf_iter_task_destroy:D
bpf_iter_task_new:Ntp bpf_iter_task_next:Xn bpf_iter_task_vma_destroy:D bpf_iter_task_vma_new:Nu
bpf_iter_task_vma_next:Xn bpf_local_irq_restore bpf_local_irq_save bpf_map_sum_elem_count:t
bpf_modify_return_test_tp bpf_preempt_disable bpf_preempt_enable bpf_probe_read_kernel_dynptr
bpf_probe_read_kernel_str_dynptr bpf_probe_read_user_dynptr bpf_probe_read_user_str_dynptr
bpf_rcu_read_lock bpf_rcu_read_unlock bpf_rdonly_cast bpf_res_spin_lock:n
bpf_res_spin_lock_irqsave:n bpf_res_spin_unlock bpf_res_spin_unlock_irqrestore bpf_strcasecmp
bpf_strchr bpf_strchrnul bpf_strcmp bpf_strcspn bpf_stream_vprintk_impl:t bpf_strlen bpf_strnchr
bpf_strnlen bpf_strnstr bpf_strrchr bpf_strspn bpf_strstr bpf_task_work_schedule_resume_impl:t
bpf_task_work_schedule_signal_impl:t bpf_wq_init bpf_wq_set_callback_impl bpf_wq_start
bpf_xdp_metadata_rx_hash:t bpf_xdp_metadata_rx_timestamp:t bpf_xdp_metadata_rx_vlan_tag:t
"""
# Of some: the types, then the functions.
_SETS: Final = (
    # every type that handles an sk_buff, tracing programs too
    ((1, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 18, 19, 23, 25, 26, 29, 32),
     "bpf_dynptr_from_skb:t"),
    ((3, 5, 6, 7, 8, 9, 13, 15, 18, 23, 25, 26, 27, 29, 31), """
bpf_cgroup_acquire:aun bpf_cgroup_ancestor:aun bpf_cgroup_from_id:an bpf_cgroup_release:r
bpf_key_put:r bpf_list_back:n bpf_list_front:n bpf_list_pop_back:an bpf_list_pop_front:an
bpf_list_push_back_impl bpf_list_push_front_impl bpf_lookup_system_key:an bpf_lookup_user_key:ans
bpf_obj_drop_impl:r bpf_obj_new_impl:an bpf_percpu_obj_drop_impl:r bpf_percpu_obj_new_impl:an
bpf_rbtree_add_impl bpf_rbtree_first:n bpf_rbtree_left:n bpf_rbtree_remove:an bpf_rbtree_right:n
bpf_rbtree_root:n bpf_refcount_acquire_impl:aun bpf_send_signal_task:t bpf_task_acquire:aun
bpf_task_from_pid:an bpf_task_from_vpid:an bpf_task_get_cgroup1:aun bpf_task_release:r
bpf_task_under_cgroup:u bpf_throw"""),
    ((8, 9, 13, 15, 18, 23, 25), "bpf_sock_addr_set_sun_path bpf_sock_ops_enable_tx_tstamp:t"),
    ((5, 7, 26, 27, 29, 31), """
bpf_cpumask_acquire:at bpf_cpumask_and:u bpf_cpumask_any_and_distribute:u
bpf_cpumask_any_distribute:u bpf_cpumask_clear:u bpf_cpumask_clear_cpu:u bpf_cpumask_copy:u
bpf_cpumask_create:an bpf_cpumask_empty:u bpf_cpumask_equal:u bpf_cpumask_first:u
bpf_cpumask_first_and:u bpf_cpumask_first_zero:u bpf_cpumask_full:u bpf_cpumask_intersects:u
bpf_cpumask_or:u bpf_cpumask_populate:u bpf_cpumask_release:r bpf_cpumask_set_cpu:u
bpf_cpumask_setall:u bpf_cpumask_subset:u bpf_cpumask_test_and_clear_cpu:u
bpf_cpumask_test_and_set_cpu:u bpf_cpumask_test_cpu:u bpf_cpumask_weight:u bpf_cpumask_xor:u"""),
    ((3, 5, 7, 26, 29, 31), "bpf_kfunc_call_memb_release:r bpf_kfunc_call_test_release:r"),
    ((3, 4, 6), "bpf_crypto_decrypt:u bpf_crypto_encrypt:u"),
    ((5, 7, 26, 29), "css_rstat_flush:s css_rstat_updated"),
    ((3, 6), """
bpf_ct_change_status:t bpf_ct_change_timeout:t bpf_ct_insert_entry:anr bpf_ct_release:r
bpf_ct_set_nat_info:t bpf_ct_set_status:t bpf_ct_set_timeout:t bpf_skb_ct_alloc:an
bpf_skb_ct_lookup:an bpf_xdp_ct_alloc:an bpf_xdp_ct_lookup:an"""),
    ((3, 4), "bpf_dynptr_from_skb_meta:t"),
    ((31,), "bpf_crypto_ctx_acquire:aun bpf_crypto_ctx_create:ans bpf_crypto_ctx_release:r"),
    ((27,), """
bbr_cwnd_event bbr_init bbr_main bbr_min_tso_segs bbr_set_state bbr_sndbuf_expand bbr_ssthresh
bbr_undo_cwnd cubictcp_acked cubictcp_cong_avoid cubictcp_cwnd_event cubictcp_init
cubictcp_recalc_ssthresh cubictcp_state tcp_cong_avoid_ai tcp_reno_cong_avoid tcp_reno_ssthresh
tcp_reno_undo_cwnd tcp_slow_start"""),
    ((6,), """
bpf_dynptr_from_xdp bpf_xdp_get_xfrm_state:an bpf_xdp_pull_data bpf_xdp_xfrm_state_release:r"""),
    ((3,), "bpf_sk_assign_tcp_reqsk:t"),
    ((2,), "bpf_session_cookie bpf_session_is_return"),  # in sessions
    ((26,), "bpf_sock_destroy:t"),  # in iterators of sockets
    ((29,), """
bpf_get_dentry_xattr:st bpf_get_file_xattr:st bpf_get_task_exe_file:atn bpf_path_d_path:t
bpf_put_file:r bpf_remove_dentry_xattr:st bpf_set_dentry_xattr:st"""),
)  # fmt: skip
_KPROBE: Final = 2
_SESSIONS: Final = (56, 57)  # BPF_TRACE_KPROBE_SESSION, BPF_TRACE_UPROBE_SESSION
_ITER: Final = 28  # BPF_TRACE_ITER


def _rows(text: str) -> dict[str, int]:
    rows: dict[str, int] = {}
    for row in text.split():
        name, _, letters = row.partition(":")
        flags = 0
        for letter in letters:
            flags |= _LETTERS[letter]
        rows[name] = flags
    return rows


def _table() -> tuple[dict[str, int], dict[str, frozenset[int]]]:
    flags = _rows(_COMMON)
    types: dict[str, frozenset[int]] = {}
    for allowed, text in _SETS:
        rows = _rows(text)
        flags.update(rows)
        for name in rows:
            types[name] = frozenset(allowed)
    return flags, types


_TABLE: Final = _table()
FLAGS: Final[dict[str, int]] = _TABLE[0]
_TYPES: Final[dict[str, frozenset[int]]] = _TABLE[1]


def allowed(prog_type: int, attach_type: int, name: str) -> bool:
    """Programs of this type may call the function of that name."""
    if name not in FLAGS:
        return False
    types = _TYPES.get(name)
    if types is None:
        return True
    if prog_type not in types:
        return False
    if prog_type == _KPROBE:
        return attach_type in _SESSIONS
    return name != "bpf_sock_destroy" or attach_type == _ITER
