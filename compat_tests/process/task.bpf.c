/* What the fields of a task are, where the victim calls mark(N): by CO-RE reads from
 * bpf_get_current_task(), and (same = 1) by loads through bpf_get_current_task_btf(). */
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#include "task.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct ns_common {
	unsigned int inum;
};
struct mnt_namespace {
	struct ns_common ns;
};
struct new_utsname {
	char nodename[65];
};
struct uts_namespace {
	struct ns_common ns;
	struct new_utsname name;
};
struct user_namespace {
	struct ns_common ns;
};
struct nsproxy {
	struct mnt_namespace *mnt_ns;
	struct uts_namespace *uts_ns;
};
typedef struct {
	unsigned int val;
} kuid_t;
typedef struct {
	unsigned int val;
} kgid_t;
struct cred {
	kuid_t uid, euid, suid, fsuid;
	kgid_t gid, egid;
	struct user_namespace *user_ns;
};
struct task_struct {
	int pid, tgid, prio, static_prio, exit_code;
	unsigned int flags, __state;
	unsigned long long start_time;
	char comm[16];
	struct task_struct *real_parent, *group_leader;
	struct nsproxy *nsproxy;
	const struct cred *cred;
};
#pragma clang attribute pop

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, STAGES);
	__type(key, unsigned int);
	__type(value, struct seen);
} seen SEC(".maps");

SEC("uprobe")
int on_mark(struct pt_regs *ctx)
{
	struct task_struct *t = (void *)bpf_get_current_task(), *typed = bpf_get_current_task_btf();
	unsigned int stage = PT_REGS_PARM1(ctx);
	struct seen *s = bpf_map_lookup_elem(&seen, &stage);

	if (!s)
		return 0;
	s->hits++;
	s->pid = BPF_CORE_READ(t, pid);
	s->tgid = BPF_CORE_READ(t, tgid);
	s->parent = BPF_CORE_READ(t, real_parent, tgid);
	s->leader = BPF_CORE_READ(t, group_leader, pid);
	s->prio = BPF_CORE_READ(t, prio);
	s->static_prio = BPF_CORE_READ(t, static_prio);
	s->exit_code = BPF_CORE_READ(t, exit_code);
	s->state = BPF_CORE_READ(t, __state);
	s->start = BPF_CORE_READ(t, start_time);
	s->mnt = BPF_CORE_READ(t, nsproxy, mnt_ns, ns.inum);
	s->uts = BPF_CORE_READ(t, nsproxy, uts_ns, ns.inum);
	s->user = BPF_CORE_READ(t, cred, user_ns, ns.inum);
	s->uid = BPF_CORE_READ(t, cred, uid.val);
	s->euid = BPF_CORE_READ(t, cred, euid.val);
	s->suid = BPF_CORE_READ(t, cred, suid.val);
	s->fsuid = BPF_CORE_READ(t, cred, fsuid.val);
	s->gid = BPF_CORE_READ(t, cred, gid.val);
	s->egid = BPF_CORE_READ(t, cred, egid.val);
	bpf_probe_read_kernel_str(s->comm, sizeof(s->comm), t->comm);
	BPF_CORE_READ_STR_INTO(&s->leader_comm, t, group_leader, comm);
	BPF_CORE_READ_STR_INTO(&s->parent_comm, t, real_parent, comm);
	bpf_get_current_comm(s->own_comm, sizeof(s->own_comm));
	s->same = typed == t && typed->pid == s->pid && typed->group_leader->tgid == s->tgid &&
		  typed->start_time == s->start && typed->cred->uid.val == s->uid &&
		  typed->comm[1] == s->comm[1] && typed->real_parent->pid == s->parent;
	/* a half that is no structure's, and the user's half of these addresses */
	s->bad = bpf_probe_read_kernel(&s->none, 8, (void *)0xffff8f0000000000ull);
	s->bad_user = bpf_probe_read_user(&s->none, 8, t);
	s->legacy = bpf_probe_read(&s->none, 4, &t->pid) ? -1 : (int)s->none;
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
