/*
 * guard [--uid N | --root] [--no-ptrace] [--env NAME=VALUE]... [--chdir DIR] -- COMMAND...
 *
 * Runs COMMAND as somebody who has nothing: an unprivileged user, no capability, PATH as
 * the whole environment, and bpf(2) and perf_event_open(2) answered with EPERM by a
 * seccomp filter (SECCOMP_RET_ERRNO), which children inherit. With --no-ptrace also
 * ptrace(2), process_vm_readv(2), process_vm_writev(2).
 *
 * As root the filter is installed with CAP_SYS_ADMIN and no_new_privs stays off, so that
 * nothing but the filter and the user differ from an ordinary session. Otherwise the user
 * stays and no_new_privs is set, which the kernel demands. With --root the user is not
 * changed, for daemons that root starts: the filter stays.
 *
 * Exit status: the command's; 125 when the guard itself failed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MAX_ENV = 32, LAST_CAP = 63, X32_BIT = 0x40000000 };

static const char PATH_ONLY[] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

static void die(const char *what)
{
	fprintf(stderr, "guard: %s: %s\n", what, strerror(errno));
	exit(125);
}

static void drop_user(unsigned int uid)
{
	for (int cap = 0; cap <= LAST_CAP; cap++)
		if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) && errno != EINVAL)
			die("PR_CAPBSET_DROP");
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
		die("PR_CAP_AMBIENT");
	if (setgroups(0, NULL) || setresgid(uid, uid, uid) || setresuid(uid, uid, uid))
		die("change of user");
}

/* Refused calls jump to the last instruction; a foreign ABI is refused as a whole. */
static void install_filter(int no_ptrace)
{
	static const unsigned int refused[] = { __NR_bpf, __NR_perf_event_open, __NR_ptrace,
						__NR_process_vm_readv, __NR_process_vm_writev };
	unsigned int nrefused = no_ptrace ? 5 : 2;
	struct sock_filter code[16];
	unsigned int n = 0, last = 5 + nrefused;
	struct sock_fprog prog = { .filter = code };

	code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
						 offsetof(struct seccomp_data, arch));
	code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0,
						 last - 2);
	code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
						 offsetof(struct seccomp_data, nr));
	code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, X32_BIT, last - 4, 0);
	for (unsigned int i = 0; i < nrefused; i++, n++)
		code[n] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, refused[i],
						       last - n - 1, 0);
	code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
	prog.len = (unsigned short)n;
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog))
		die("seccomp");
}

int main(int argc, char **argv)
{
	char *environment[MAX_ENV + 2];
	int no_ptrace = 0, root = 0, nenv = 0, i;
	unsigned int uid = 65534;

	environment[nenv++] = (char *)PATH_ONLY;
	for (i = 1; i < argc && strcmp(argv[i], "--"); i++) {
		if (!strcmp(argv[i], "--no-ptrace")) {
			no_ptrace = 1;
		} else if (!strcmp(argv[i], "--root")) {
			root = 1;
		} else if (!strcmp(argv[i], "--uid") && i + 1 < argc) {
			uid = (unsigned int)strtoul(argv[++i], NULL, 10);
		} else if (!strcmp(argv[i], "--env") && i + 1 < argc && nenv <= MAX_ENV) {
			environment[nenv++] = argv[++i];
		} else if (!strcmp(argv[i], "--chdir") && i + 1 < argc) {
			if (chdir(argv[++i]))
				die(argv[i]);
		} else {
			fprintf(stderr, "guard: unknown argument %s\n", argv[i]);
			return 125;
		}
	}
	environment[nenv] = NULL;
	if (i + 1 >= argc) {
		fprintf(stderr, "guard: no command\n");
		return 125;
	}
	if (geteuid()) {
		if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
			die("PR_SET_NO_NEW_PRIVS");
		install_filter(no_ptrace);
	} else {
		install_filter(no_ptrace);
		if (!root)
			drop_user(uid);
	}
	execvpe(argv[i + 1], argv + i + 1, environment);
	die(argv[i + 1]);
}
