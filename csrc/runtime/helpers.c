/* Which helpers there are. The verifier refuses a program that names another. */
#include "helpers.h"

static const shim_helper_fn table[] = {
	[BPF_FUNC_map_lookup_elem] = helper_map_lookup_elem,
	[BPF_FUNC_map_update_elem] = helper_map_update_elem,
	[BPF_FUNC_map_delete_elem] = helper_map_delete_elem,
	[BPF_FUNC_probe_read] = helper_probe_read,
	[BPF_FUNC_ktime_get_ns] = helper_ktime_get_ns,
	[BPF_FUNC_trace_printk] = helper_trace_printk,
	[BPF_FUNC_tail_call] = helper_tail_call,
	[BPF_FUNC_get_prandom_u32] = helper_get_prandom_u32,
	[BPF_FUNC_get_smp_processor_id] = helper_get_smp_processor_id,
	[BPF_FUNC_get_current_pid_tgid] = helper_get_current_pid_tgid,
	[BPF_FUNC_get_current_uid_gid] = helper_get_current_uid_gid,
	[BPF_FUNC_get_current_comm] = helper_get_current_comm,
	[BPF_FUNC_perf_event_output] = helper_perf_event_output,
	[BPF_FUNC_get_stackid] = helper_get_stackid,
	[BPF_FUNC_get_current_task] = helper_get_current_task,
	[BPF_FUNC_current_task_under_cgroup] = helper_current_task_under_cgroup,
	[BPF_FUNC_get_numa_node_id] = helper_get_numa_node_id,
	[BPF_FUNC_probe_read_str] = helper_probe_read_str,
	[BPF_FUNC_get_stack] = helper_get_stack,
	[BPF_FUNC_get_current_cgroup_id] = helper_get_current_cgroup_id,
	[BPF_FUNC_map_push_elem] = helper_map_push_elem,
	[BPF_FUNC_map_pop_elem] = helper_map_pop_elem,
	[BPF_FUNC_map_peek_elem] = helper_map_peek_elem,
	[BPF_FUNC_send_signal] = helper_send_signal,
	[BPF_FUNC_probe_read_user] = helper_probe_read,
	[BPF_FUNC_probe_read_kernel] = helper_probe_read,
	[BPF_FUNC_probe_read_user_str] = helper_probe_read_str,
	[BPF_FUNC_probe_read_kernel_str] = helper_probe_read_str,
	[BPF_FUNC_ktime_get_boot_ns] = helper_ktime_get_boot_ns,
	[BPF_FUNC_ringbuf_output] = helper_ringbuf_output,
	[BPF_FUNC_ringbuf_reserve] = helper_ringbuf_reserve,
	[BPF_FUNC_ringbuf_submit] = helper_ringbuf_submit,
	[BPF_FUNC_ringbuf_discard] = helper_ringbuf_discard,
	[BPF_FUNC_ringbuf_query] = helper_ringbuf_query,
	[BPF_FUNC_ktime_get_coarse_ns] = helper_ktime_get_coarse_ns,
	[BPF_FUNC_loop] = helper_loop,
	[BPF_FUNC_get_func_ip] = helper_get_func_ip,
	[BPF_FUNC_get_attach_cookie] = helper_get_attach_cookie,
	[BPF_FUNC_map_lookup_percpu_elem] = helper_map_lookup_percpu_elem,
};

shim_helper_fn shim_helper(u32 number)
{
	return number < sizeof(table) / sizeof(table[0]) ? table[number] : 0;
}
