/*
 * Starting the backend from inside somebody else's process.
 *
 * Two children share our memory while we wait (CLONE_VM | CLONE_VFORK), so nothing is copied
 * and no atfork handler runs; they make raw system calls alone. The first has exit signal 0
 * (the loader gets no SIGCHLD and its wait() never sees it: it is reaped here by __WCLONE);
 * the second is init's child, in its own session.
 */
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "surface.h"

enum { STACK = 32768, MAX_ENV = 64, SOCKET_FD = 3 };

struct plan {
	struct surface_conf conf;
	char *argv[8];
	char *envp[MAX_ENV + 4];
	int sock;
	bool debug;
	s32 err; /* what execve answered; read after the children are gone */
	u8 *stack1, *stack2;
};

extern char **environ;

/* The first modules come from a file of the build's, if it is this Python's (backend/boot.py). */
static const char
	code[] = "import sys; sys.path.insert(0, sys.argv[1])\n"
		 "from _frozen_importlib_external import MAGIC_NUMBER\n"
		 "import marshal\n"
		 "try:\n"
		 "    name = f'{sys.argv[1]}/libbpf_shim/_lib/boot-{sys.implementation.cache_tag}'\n"
		 "    with open(name, 'rb', 0) as file: data = file.read()\n"
		 "    code, rows = marshal.loads(data[4:]) if data[:4] == MAGIC_NUMBER else (0, 0)\n"
		 "except (OSError, EOFError, ValueError, TypeError): code = 0\n"
		 "if code:\n"
		 "    boot = {}; exec(code, boot); boot['load'](sys.argv[1], rows)\n"
		 "from libbpf_shim.backend.main import main; main()";

/* fn(arg) on another stack, in a child that shares memory; the child exits with fn's result.
 * Written in assembly since the child may not return through our frame. */
static long clone_vm(long (*fn)(void *), void *arg, u8 *stack_top)
{
	register long r10 __asm__("r10") = 0;
	register long r8 __asm__("r8") = 0;
	long ret;

	__asm__ volatile("mov %[fn], %%r12\n\t"
			 "mov %[arg], %%r13\n\t"
			 "syscall\n\t"
			 "test %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "xor %%ebp, %%ebp\n\t"
			 "mov %%r13, %%rdi\n\t"
			 "call *%%r12\n\t"
			 "mov %%eax, %%edi\n\t"
			 "mov $231, %%eax\n\t"
			 "syscall\n\t"
			 "ud2\n"
			 "1:"
			 : "=a"(ret)
			 : "a"(SYS_clone), "D"(CLONE_VM | CLONE_VFORK), "S"(stack_top), "d"(0L),
			   "r"(r10), "r"(r8), [fn] "b"(fn), [arg] "r"((long)arg)
			 : "rcx", "r11", "r12", "r13", "memory");
	return ret;
}

static void default_signals(void)
{
	u64 action[4] = { 0 }, none = 0; /* struct kernel_sigaction: SIG_DFL, flags, restorer, mask */

	for (int sig = 1; sig <= 64; sig++)
		shim_sys4(SYS_rt_sigaction, sig, action, 0, 8);
	shim_sys4(SYS_rt_sigprocmask, 2 /* SIG_SETMASK */, &none, 0, 8);
}

static void close_from(unsigned first)
{
	if (shim_sys3(SYS_close_range, first, ~0U, 0) == 0)
		return;
	for (unsigned fd = first; fd < 65536; fd++)
		shim_sys1(SYS_close, fd);
}

/* Grandchild: becomes the backend, or leaves the reason in plan->err. */
static long become_backend(void *arg)
{
	struct plan *plan = arg;
	long null;

	if (plan->sock != SOCKET_FD)
		shim_sys3(SYS_dup3, plan->sock, SOCKET_FD, 0);
	else
		shim_sys3(SYS_fcntl, SOCKET_FD, F_SETFD, 0);
	null = shim_sys3(SYS_open, "/dev/null", O_RDWR, 0);
	for (int fd = 0; fd < (plan->debug ? 2 : 3); fd++) {
		if (null < 0)
			shim_sys1(SYS_close, fd);
		else if (null != fd)
			shim_sys2(SYS_dup2, null, fd);
	}
	close_from(SOCKET_FD + 1);
	shim_sys1(SYS_chdir, "/");
	shim_sys1(SYS_umask, 077);
	default_signals();
	plan->err = (s32)shim_sys3(SYS_execve, plan->conf.interp, plan->argv, plan->envp);
	return 127;
}

static long first_child(void *arg)
{
	struct plan *plan = arg;
	long pid;

	shim_sys0(SYS_setsid);
	pid = clone_vm(become_backend, plan, plan->stack2);
	if (pid < 0)
		plan->err = (s32)pid;
	return 0;
}

long surface_conf(struct surface_conf *conf, char *path, size_t size)
{
	char text[2048], *end;
	long fd, n;

	surface_join(path, size, surface_home(), "/libbpf_shim.conf", "");
	fd = shim_sys3(SYS_open, path, O_RDONLY | O_CLOEXEC, 0);
	if (fd < 0)
		return fd;
	n = shim_sys3(SYS_read, fd, text, sizeof(text) - 1);
	surface_close((int)fd);
	if (n < 0)
		return n;
	text[n] = 0;
	end = strchr(text, '\n');
	if (!end || (size_t)(end - text) >= sizeof(conf->interp))
		return -EINVAL;
	*end = 0;
	strcpy(conf->interp, text);
	surface_join(conf->root, sizeof(conf->root), end + 1, "", "");
	end = strchr(conf->root, '\n');
	if (end)
		*end = 0;
	return conf->interp[0] == '/' && conf->root[0] == '/' ? 0 : -EINVAL;
}

/* Our own variables, and the one that says where run directories lie: targets see it too. */
static void clean_environment(struct plan *plan)
{
	static char path[] = "PATH=/usr/local/bin:/usr/bin:/bin", lang[] = "LANG=C.UTF-8";
	int n = 0;

	plan->envp[n++] = path;
	plan->envp[n++] = lang;
	for (char **e = environ; e && *e && n < MAX_ENV; e++) {
		if (!strncmp(*e, "LIBBPF_SHIM_", 12) || !strncmp(*e, "XDG_RUNTIME_DIR=", 16))
			plan->envp[n++] = *e;
		if (!strncmp(*e, "LIBBPF_SHIM_DEBUG=", 18) && (*e)[18])
			plan->debug = true;
	}
	plan->envp[n] = NULL;
}

static long launch(struct plan *plan)
{
	u64 all = ~0ULL, mask = 0;
	int status = 0;
	long pid, at;

	at = shim_sys6(SYS_mmap, 0, 2 * STACK, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	if (at < 0 && at > -4096)
		return at;
	plan->stack1 = (u8 *)at + STACK;
	plan->stack2 = (u8 *)at + 2 * STACK;
	shim_sys4(SYS_rt_sigprocmask, 0, &all, &mask, 8);
	pid = clone_vm(first_child, plan, plan->stack1);
	while (pid > 0 && shim_sys4(SYS_wait4, pid, &status, __WCLONE, 0) == -EINTR)
		;
	shim_sys4(SYS_rt_sigprocmask, 2, &mask, 0, 8);
	shim_sys2(SYS_munmap, at, 2 * STACK);
	return pid < 0 ? pid : plan->err;
}

long spawn_backend(const char *share)
{
	/* alone, and without `site`: libbpf_shim/backend/startup.py finds what it needs */
	static char arg_i[] = "-I", arg_s[] = "-S", arg_c[] = "-c";
	struct plan plan = { .err = 0 };
	char path[SURFACE_PATH], number[24];
	int pair[2];
	long err = surface_conf(&plan.conf, path, sizeof(path));

	if (err) {
		surface_note("no backend: cannot use its configuration file", path);
		return err;
	}
	err = shim_sys4(SYS_socketpair, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair);
	if (err)
		return err;
	plan.sock = pair[1];
	plan.argv[0] = plan.conf.interp;
	plan.argv[1] = arg_i;
	plan.argv[2] = arg_s;
	plan.argv[3] = arg_c;
	plan.argv[4] = (char *)code;
	plan.argv[5] = plan.conf.root;
	plan.argv[6] = (char *)share;
	clean_environment(&plan);
	err = launch(&plan);
	surface_close(pair[1]);
	if (!err)
		return pair[0];
	surface_close(pair[0]);
	surface_join(path, sizeof(path), plan.conf.interp, ": errno ",
		     surface_decimal(number, (u64)-err));
	surface_note("no backend: cannot run", path);
	return err;
}
