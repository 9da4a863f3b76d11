/* Kprobes at system calls: results that are replaced, arguments and results that are read. */
#define __VMLINUX_H__ /* struct pt_regs has the kernel's names */
#define BPF_NO_GLOBAL_DATA
#include <linux/types.h>

struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs,
		flags, sp, ss;
} __attribute__((preserve_access_index));

enum { BPF_ANY = 0, BPF_MAP_TYPE_ARRAY = 2 };
enum { EPERM = 1, EAGAIN = 11 };

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

enum { OLDER, NEWER, LEFT, OPENED, FORKS, CLONES, PPIDS, EXECS, TAKEN };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u64);
} out SEC(".maps");

static __u64 add(__u32 key, __u64 n)
{
	__u64 *value = bpf_map_lookup_elem(&out, &key);

	return value ? __sync_fetch_and_add(value, n) : 0;
}

static int ours(void)
{
	char comm[16] = "";

	bpf_get_current_comm(comm, sizeof(comm));
	return comm[0] == 'o' && comm[1] == 'v' && comm[2] == 'e' && comm[3] == 'r' && comm[4] == 't';
}

SEC("kretsyscall/getuid") int BPF_KRETPROBE(uid_older, long ret)
{
	if (ours())
		add(OLDER, 1);
	return 0;
}

SEC("ksyscall/getuid") int uid(struct pt_regs *ctx)
{
	if (ours())
		bpf_override_return(ctx, 4242);
	return 0;
}

SEC("kretprobe/__x64_sys_getuid") int BPF_KRETPROBE(uid_newer, long ret)
{
	if (ours())
		add(NEWER, ret);
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_getuid") int uid_left(const __u64 *ctx)
{
	if (ours())
		add(LEFT, ctx[2]);
	return 0;
}

SEC("ksyscall/openat") int BPF_KSYSCALL(no_open, int dfd, const char *path)
{
	char name[8] = "";

	if (!ours() || bpf_probe_read_user_str(name, sizeof(name), path) < 5)
		return 0;
	if (name[0] != '/' || name[1] != 'n' || name[2] != 'o' || name[3] != '/')
		return 0;
	add(OPENED, dfd == -100);
	bpf_override_return(ctx, -EPERM);
	return 0;
}

SEC("ksyscall/clone") int no_clone(struct pt_regs *ctx)
{
	if (ours() && !add(CLONES, 1))
		bpf_override_return(ctx, -EAGAIN);
	return 0;
}

SEC("tracepoint/sched/sched_process_fork") int forked(void *ctx)
{
	if (ours())
		add(FORKS, 1);
	return 0;
}

SEC("kretsyscall/clone") int BPF_KRETPROBE(cloned, long ret)
{
	if (ours())
		add(TAKEN, ret > 0 ? 1 : 100);
	return 0;
}

SEC("kretprobe/__x64_sys_getppid") int BPF_KRETPROBE(ppid, long ret)
{
	if (!ours())
		return 0;
	add(PPIDS, ret > 0);
	bpf_override_return(ctx, 7);
	return 0;
}

SEC("ksyscall/execve") int no_exec(struct pt_regs *ctx)
{
	if (ours()) {
		add(EXECS, 1);
		bpf_override_return(ctx, -EPERM);
	}
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
