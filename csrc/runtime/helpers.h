/* bpf helpers, a family a file. Signature and number: shim_runtime.h, enum bpf_func_id. */
#ifndef SHIM_HELPERS_H
#define SHIM_HELPERS_H

#include "runtime.h"

/* Every helper has the same parameters; UNUSED names those that it leaves alone. */
#define HELPER(name) u64 helper_##name(u64 r1, u64 r2, u64 r3, u64 r4, u64 r5, struct shim_run *run)
#define UNUSED(...) ((void)sizeof((u64[]){ __VA_ARGS__ }))

/* helpers_map.c */
HELPER(map_lookup_elem);
HELPER(map_update_elem);
HELPER(map_delete_elem);
HELPER(map_push_elem);
HELPER(map_pop_elem);
HELPER(map_peek_elem);
HELPER(map_lookup_percpu_elem);
HELPER(tail_call);
/* helpers_read.c */
HELPER(probe_read);
HELPER(probe_read_str);
HELPER(probe_write_user);
HELPER(probe_read_kernel);
HELPER(probe_read_kernel_str);
HELPER(kernel_load); /* SHIM_FUNC_KERNEL_LOAD */
HELPER(host_load);
HELPER(host_bytes); /* helpers_host.c, SHIM_FUNC_HOST_BYTES */
HELPER(host_store);
HELPER(host_call); /* SHIM_FUNC_HOST_CALL, not in C */
HELPER(held); /* helpers_held.c, SHIM_FUNC_HELD */
HELPER(budget_ended); /* helpers_budget.c, SHIM_FUNC_BUDGET_ENDED */
HELPER(host_clip);
HELPER(host_peek);
/* helpers_task.c */
HELPER(ktime_get_ns);
HELPER(clock_own); /* SHIM_FUNC_CLOCK_OWN */
HELPER(ktime_get_boot_ns);
HELPER(ktime_get_coarse_ns);
HELPER(get_prandom_u32);
HELPER(get_smp_processor_id);
HELPER(get_numa_node_id);
HELPER(get_current_pid_tgid);
HELPER(get_current_uid_gid);
HELPER(get_current_comm);
HELPER(get_current_task);
HELPER(task_storage_get);
HELPER(task_storage_delete);
HELPER(get_current_cgroup_id);
HELPER(get_current_ancestor_cgroup_id);
HELPER(current_task_under_cgroup);
HELPER(send_signal);
HELPER(send_signal_thread);
HELPER(get_func_ip);
HELPER(override_return);
HELPER(perf_event_read);
HELPER(perf_event_read_value);
HELPER(get_attach_cookie);
/* What a program knows as struct bpf_dynptr. */
enum { DYNPTR_LOCAL = 1, DYNPTR_RINGBUF = 2, DYNPTR_SKB = 3, DYNPTR_XDP = 4, DYNPTR_TYPE_SHIFT = 28 };
struct dynptr {
	u64 data; /* NULL: of nothing; of a packet: its struct shim_packet */
	u32 size; /* 24 bits; the type above them, 0 as LOCAL; bit 31: not to be written */
	u32 offset;
};

/* helpers_dynptr.c */
HELPER(dynptr_from_mem);
HELPER(ringbuf_reserve_dynptr);
HELPER(ringbuf_submit_dynptr);
HELPER(ringbuf_discard_dynptr);
HELPER(dynptr_read);
HELPER(dynptr_write);
HELPER(dynptr_data);
HELPER(dynptr_from_skb);
HELPER(dynptr_from_skb_rdonly);
HELPER(dynptr_from_xdp);
HELPER(dynptr_slice);
HELPER(dynptr_slice_rdwr);
HELPER(dynptr_adjust);
HELPER(dynptr_is_null);
HELPER(dynptr_is_rdonly);
HELPER(dynptr_size);
HELPER(dynptr_clone);
HELPER(dynptr_copy);
HELPER(dynptr_memset);
/* helpers_iter.c */
HELPER(iter_num_new);
HELPER(iter_num_next);
HELPER(iter_num_destroy);
HELPER(iter_bits_new);
HELPER(iter_bits_next);
HELPER(iter_bits_destroy);
/* helpers_kfunc.c */
HELPER(nothing);
HELPER(strcmp);
HELPER(strcasecmp);
HELPER(strchr);
HELPER(strchrnul);
HELPER(strnchr);
HELPER(strrchr);
HELPER(strlen);
HELPER(strnlen);
HELPER(strspn);
HELPER(strcspn);
HELPER(strstr);
HELPER(strnstr);
HELPER(session_is_return);
HELPER(session_cookie);
HELPER(map_sum_elem_count);
/* map_user_ringbuf.c */
HELPER(user_ringbuf_drain);
/* helpers_stack.c */
HELPER(get_stackid);
HELPER(get_stack);
HELPER(ktime_get_tai_ns);
HELPER(jiffies64);
HELPER(get_ns_current_pid_tgid);
/* helpers_calls.c */
HELPER(sys_bpf);
HELPER(sys_close);
HELPER(btf_find_by_name_kind);
HELPER(kallsyms_lookup_name);
HELPER(copy_from_user);
/* helpers_string.c */
HELPER(strtol);
HELPER(strtoul);
HELPER(strncmp);
/* helpers_timer.c */
HELPER(timer_init);
HELPER(timer_set_callback);
HELPER(timer_start);
HELPER(timer_cancel);
/* helpers_lock.c */
HELPER(spin_lock);
HELPER(spin_unlock);
/* helpers_loop.c */
HELPER(loop);
HELPER(for_each_map_elem);
/* helpers_packet.c; packet_load is BPF_LD_ABS and BPF_LD_IND, SHIM_FUNC_PACKET_LOAD */
HELPER(skb_load_bytes);
HELPER(skb_load_bytes_relative);
HELPER(skb_store_bytes);
HELPER(l3_csum_replace);
HELPER(l4_csum_replace);
HELPER(csum_diff);
HELPER(csum_update);
HELPER(skb_pull_data);
HELPER(skb_change_tail);
HELPER(skb_change_head);
HELPER(skb_change_type);
HELPER(get_hash_recalc);
HELPER(set_hash_invalid);
HELPER(set_hash);
HELPER(redirect);
HELPER(xdp_adjust_head);
HELPER(xdp_adjust_meta);
HELPER(xdp_adjust_tail);
HELPER(xdp_get_buff_len);
HELPER(xdp_load_bytes);
HELPER(xdp_store_bytes);
HELPER(packet_load);
/* helpers_skb.c */
HELPER(skb_vlan_push);
HELPER(skb_vlan_pop);
HELPER(skb_change_proto);
HELPER(skb_adjust_room);
HELPER(csum_level);
HELPER(skb_ecn_set_ce);
HELPER(skb_set_tstamp);
HELPER(lwt_push_encap);
/* helpers_tunnel.c */
HELPER(skb_set_tunnel_key);
HELPER(skb_set_tunnel_opt);
HELPER(skb_get_tunnel_key);
HELPER(skb_get_tunnel_opt);
/* helpers_sock.c */
HELPER(get_socket_cookie);
HELPER(get_netns_cookie);
HELPER(sk_fullsock);
HELPER(zero);
HELPER(skb_cgroup_id);
HELPER(skb_ancestor_cgroup_id);
HELPER(skb_under_cgroup);
HELPER(skb_get_xfrm_state);
HELPER(redirect_peer);
HELPER(redirect_neigh);
HELPER(check_mtu);
/* helpers_trace.c */
HELPER(trace_printk);
HELPER(trace_vprintk);
HELPER(snprintf);
/* helpers_out.c */
HELPER(perf_event_output);
HELPER(ringbuf_output);
HELPER(ringbuf_reserve);
HELPER(ringbuf_submit);
HELPER(ringbuf_discard);
HELPER(ringbuf_query);
/* helpers_event.c */
HELPER(perf_prog_read_value);

#endif
