/*
 * rename PID FD: gives bpf(2) and perf_event_open(2) of a process, and of all that it starts, other
 * numbers, so that a seccomp filter further out, which answers the real ones, lets them pass to the
 * one that asks us (libbpf_shim/client/proxy/seccomp.py, RENAMED). A tracer sees a system call
 * before any filter does.
 *
 * Writes one byte to FD when it has the process, and closes it. Ends with the last of them; if it
 * dies, the kernel lets them go, and their calls are refused as before.
 */
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RENAMED = 0x10000000, STOPPED_CALL = SIGTRAP | 0x80 };
/* include/linux/errno.h: inside the kernel, and to tracers */
static const long ERESTARTSYS = 512, ERESTARTNOINTR = 513;

static const long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK |
			    PTRACE_O_TRACEVFORK;

static const size_t at_nr = offsetof(struct user_regs_struct, orig_rax);
static const size_t at_result = offsetof(struct user_regs_struct, rax);

/*
 * Entry: another number. Exit: a call that a signal interrupted before anybody had looked at it is
 * made again, whatever the handler's SA_RESTART says: the kernel's bpf(2) is not interrupted.
 */
static void rename_call(pid_t tid)
{
	struct __ptrace_syscall_info info = { .op = 0 };
	long nr;

	if (ptrace(PTRACE_GET_SYSCALL_INFO, tid, sizeof(info), &info) <= 0)
		return;
	if (info.op == PTRACE_SYSCALL_INFO_EXIT && info.exit.rval == -ERESTARTSYS) {
		nr = ptrace(PTRACE_PEEKUSER, tid, at_nr, 0) - RENAMED;
		if (nr == SYS_bpf || nr == SYS_perf_event_open)
			ptrace(PTRACE_POKEUSER, tid, at_result, (void *)-ERESTARTNOINTR);
	}
	if (info.op != PTRACE_SYSCALL_INFO_ENTRY)
		return;
	nr = (long)info.entry.nr;
	if (nr == SYS_bpf || nr == SYS_perf_event_open)
		ptrace(PTRACE_POKEUSER, tid, at_nr, (void *)(nr + RENAMED));
}

static int is_stop_signal(int sig)
{
	return sig == SIGSTOP || sig == SIGTSTP || sig == SIGTTIN || sig == SIGTTOU;
}

static void go_on(pid_t tid, int status)
{
	int sig = WSTOPSIG(status), event = status >> 16;

	if (event == PTRACE_EVENT_STOP && is_stop_signal(sig)) { /* it is stopped, and stays so */
		ptrace(PTRACE_LISTEN, tid, 0, 0);
		return;
	}
	if (sig == STOPPED_CALL)
		rename_call(tid);
	if (sig == STOPPED_CALL || event)
		sig = 0;
	ptrace(PTRACE_SYSCALL, tid, 0, (void *)(long)sig);
}

int main(int argc, char **argv)
{
	pid_t pid, tid;
	int status, fd;

	if (argc != 3)
		return 2;
	pid = atoi(argv[1]);
	fd = atoi(argv[2]);
	if (ptrace(PTRACE_SEIZE, pid, 0, options) || ptrace(PTRACE_INTERRUPT, pid, 0, 0))
		return 1; /* who started this sees that nothing is written */
	while ((tid = waitpid(-1, &status, __WALL)) > 0 || errno == EINTR) {
		if (tid <= 0 || !WIFSTOPPED(status))
			continue;
		if (fd >= 0 && write(fd, "1", 1) >= 0) {
			close(fd);
			fd = -1;
		}
		go_on(tid, status);
	}
	return 0;
}
