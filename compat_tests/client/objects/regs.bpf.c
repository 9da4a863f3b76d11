#include "core.h"

/* Registers and tracepoint contexts by CO-RE, as bpf_tracing.h writes them. */
struct trace_event_raw_sys_enter {
	long id;
	unsigned long args[6];
	char __data[0];
} CORE;
struct file {
	struct path {
		struct dentry *dentry;
	} f_path;
} CORE;
struct qstr {
	const unsigned char *name;
} CORE;
struct dentry {
	struct qstr d_name;
	struct dentry *d_parent;
} CORE;

char name[64];
u64 out;

SEC("tracepoint/raw_syscalls/sys_enter")
int by_context(struct trace_event_raw_sys_enter *ctx)
{
	out = ctx->args[2] + ctx->id;
	return 0;
}

SEC("kprobe/vfs_read")
int BPF_KPROBE(by_register, struct file *file, char *buf, unsigned long count)
{
	const unsigned char *text = BPF_CORE_READ(file, f_path.dentry, d_name.name);

	bpf_core_read_str(name, sizeof(name), text);
	out = count;
	return 0;
}

SEC("ksyscall/write")
int BPF_KSYSCALL(by_syscall, int fd, const void *buf, unsigned long count)
{
	out = fd + count;
	return 0;
}
