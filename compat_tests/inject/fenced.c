/*
 * fenced FILTER [COMMAND...]: puts itself under a seccomp filter and says "ready", or executes
 * COMMAND; then "0 1" for each byte of stdin ("1 1": a sleep was wrong). FILTER: strict (seccomp's own), kill-mmap, kill-bpf,
 * errno-mmap, kill-exec (mmap that is executable), errno-readv, trap-readv (process_vm_readv), list
 * (a list of what is allowed, the rest kills), sleeps (reads, writes, sleeps and waits are allowed, the
 * rest kills; a second thread sleeps), docker (what its default refuses of a container without
 * capabilities), kill-NUMBER (of a system call), none.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define UNLESS(word, skip) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, word, 0, skip)
#define RET(what) BPF_STMT(BPF_RET | BPF_K, what)

static struct sock_filter code[64];
static unsigned short n;

static void put(struct sock_filter insn)
{
	code[n++] = insn;
}

static void one_call(unsigned int nr, unsigned int action)
{
	put((struct sock_filter)LOAD(nr));
	put((struct sock_filter)UNLESS(nr, 1));
	put((struct sock_filter)RET(action));
	put((struct sock_filter)RET(SECCOMP_RET_ALLOW));
}

static void only_with(unsigned int nr, unsigned int bits, unsigned int action)
{
	put((struct sock_filter)LOAD(nr));
	put((struct sock_filter)UNLESS(nr, 3));
	put((struct sock_filter)LOAD(args[2]));
	put((struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, bits, 0, 1));
	put((struct sock_filter)RET(action));
	put((struct sock_filter)RET(SECCOMP_RET_ALLOW));
}

static void each(const unsigned int *calls, size_t count, unsigned int action, unsigned int rest)
{
	put((struct sock_filter)LOAD(nr));
	for (size_t i = 0; i < count; i++) {
		put((struct sock_filter)UNLESS(calls[i], 1));
		put((struct sock_filter)RET(action));
	}
	put((struct sock_filter)RET(rest));
}

static void list(void)
{
	static const unsigned int allowed[] = { SYS_read,  SYS_write, SYS_exit,	  SYS_rt_sigreturn,
						SYS_futex, SYS_mmap,  SYS_munmap, SYS_close };

	each(allowed, sizeof(allowed) / sizeof(allowed[0]), SECCOMP_RET_ALLOW,
	     SECCOMP_RET_KILL_PROCESS);
}

/* moby's profiles/seccomp/default.json leaves these out, or asks for capabilities. */
static void docker(void)
{
	static const unsigned int refused[] = {
		SYS_acct,
		SYS_add_key,
		SYS_bpf,
		SYS_clock_settime,
		SYS_delete_module,
		SYS_fsopen,
		SYS_init_module,
		SYS_io_uring_setup,
		SYS_kexec_load,
		SYS_keyctl,
		SYS_mount,
		SYS_open_by_handle_at,
		SYS_perf_event_open,
		SYS_pivot_root,
		SYS_reboot,
		SYS_request_key,
		SYS_setns,
		SYS_swapon,
		SYS_umount2,
		SYS_unshare,
		SYS_userfaultfd,
		SYS_vhangup,
		SYS_quotactl,
		SYS_settimeofday,
	};

	each(refused, sizeof(refused) / sizeof(refused[0]), SECCOMP_RET_ERRNO | EPERM,
	     SECCOMP_RET_ALLOW);
}

static volatile int begun, wrong, over;

static void *sleeps(void *unused)
{
	begun = 1;
	while (!over) {
		struct timespec t = { 0, 50000000 };

		if (syscall(SYS_nanosleep, &t, NULL))
			wrong = 1;
	}
	syscall(SYS_exit, 0); /* munmap(2) is not allowed */
	return unused;
}

static void sleeper(void)
{
	static const unsigned int allowed[] = { SYS_read, SYS_write, SYS_exit, SYS_nanosleep,
						SYS_futex };
	pthread_t thread;

	if (pthread_create(&thread, NULL, sleeps, NULL))
		abort();
	while (!begun) /* what libc does before is not allowed */
		sched_yield();
	each(allowed, sizeof(allowed) / sizeof(allowed[0]), SECCOMP_RET_ALLOW,
	     SECCOMP_RET_KILL_PROCESS);
}

static int fence(const char *kind)
{
	struct sock_fprog prog = { .filter = code };

	if (!strcmp(kind, "strict"))
		return syscall(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 0, NULL);
	if (!strcmp(kind, "kill-mmap"))
		one_call(SYS_mmap, SECCOMP_RET_KILL_PROCESS);
	else if (!strcmp(kind, "kill-bpf"))
		one_call(SYS_bpf, SECCOMP_RET_KILL_PROCESS);
	else if (!strcmp(kind, "errno-mmap"))
		one_call(SYS_mmap, SECCOMP_RET_ERRNO | EPERM);
	else if (!strcmp(kind, "errno-readv"))
		one_call(SYS_process_vm_readv, SECCOMP_RET_ERRNO | EPERM);
	else if (!strcmp(kind, "trap-readv"))
		one_call(SYS_process_vm_readv, SECCOMP_RET_TRAP);
	else if (!strcmp(kind, "kill-exec"))
		only_with(SYS_mmap, PROT_EXEC, SECCOMP_RET_KILL_PROCESS);
	else if (!strcmp(kind, "list"))
		list();
	else if (!strcmp(kind, "sleeps"))
		sleeper();
	else if (!strcmp(kind, "docker"))
		docker();
	else if (!strncmp(kind, "kill-", 5))
		one_call((unsigned int)atoi(kind + 5), SECCOMP_RET_KILL_PROCESS);
	else
		return 0;
	prog.len = n;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -1;
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &prog);
}

int main(int argc, char **argv)
{
	static const char ready[] = "ready\n";
	char fine[] = "0 1\n", c;

	if (argc < 2 || fence(argv[1]))
		return 2;
	if (argc > 2) {
		execvp(argv[2], argv + 2);
		return 3;
	}
	if (write(1, ready, sizeof(ready) - 1) < 0)
		return 4;
	while (read(0, &c, 1) == 1) {
		fine[0] = (char)('0' + wrong);
		if (write(1, fine, sizeof(fine) - 1) < 0)
			return 4;
	}
	over = 1;
	syscall(SYS_exit, 0); /* what strict mode allows */
}
