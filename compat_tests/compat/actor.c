/*
 * actor: the workload of a tool's comparison. Reads a scene's name a line, plays it, says
 * "did NAME"; children are named as they are started ("child PID"), and waited for. Every scene
 * ends with an act that the tool shows as its last, so that a reader knows when it has all.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static void say(const char *what, long number)
{
	char line[64];
	int n = snprintf(line, sizeof(line), "%s %ld\n", what, number);

	if (write(1, line, (size_t)n) != n)
		_exit(9);
}

static void reap(pid_t pid)
{
	int status;

	say("child", pid);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
}

static void opens(void)
{
	int dir = open("/etc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int fd = open("/etc/hostname", O_RDONLY);

	close(fd);
	close(openat(dir, "passwd", O_RDONLY));
	open("/nonexistent/file", O_RDWR);
	open("/etc/passwd", O_RDWR); /* EACCES */
	open("/etc/hostname", O_CREAT | O_EXCL | O_RDWR, 0600);
	for (int i = 0; i < 20; i++)
		close(open("/proc/self/stat", O_RDONLY));
	syscall(SYS_open, "/etc/hosts", O_RDONLY, 0);
	open((const char *)1, O_RDONLY); /* EFAULT */
	close(dir);
	open("/nonexistent/last", O_RDONLY);
}

/* A kernel's program reads no page that its process has not touched: a fork child's, of strings. */
static void touch(char *const *words)
{
	for (; *words; words++)
		if (strlen(*words) > 4096)
			_exit(7);
}

static void execs(void)
{
	char *const yes[] = { "/bin/true", "one", "two words", NULL };
	char *const shell[] = { "sh", "-c", "/bin/true; exec /bin/echo", NULL };
	char *const none[] = { "/nonexistent/prog", NULL };
	char *const last[] = { "/bin/true", "last", NULL };
	char *const bare[] = { NULL };
	pid_t pid = fork();

	if (!pid) {
		touch(none);
		touch(yes);
		execv(none[0], none);
		execv(yes[0], yes);
		_exit(8);
	}
	reap(pid);
	pid = vfork();
	if (!pid) {
		execve(yes[0], yes, bare);
		_exit(8);
	}
	reap(pid);
	if (!posix_spawn(&pid, "/bin/sh", NULL, NULL, shell, environ))
		reap(pid);
	if (!posix_spawnp(&pid, "true", NULL, NULL, last, environ))
		reap(pid);
}

/* A child that exits with `how`; below 0: by that signal; -1: by a bad address. It lives for a
 * while before: who dies by a signal is told of by others, who must know of it (docs/parity.md). */
static pid_t child(int how)
{
	pid_t pid = fork();

	if (pid)
		return pid;
	if (how < 0)
		nanosleep(&(struct timespec){ 0, 500000000 }, NULL);
	if (how == -1)
		*(volatile int *)mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) = 1;
	if (how < 0)
		kill(getpid(), -how);
	_exit(how);
}

static void *ends(void *arg)
{
	return arg;
}

static void exits(void)
{
	struct rlimit none = { 0, 0 };
	pthread_t thread;

	setrlimit(RLIMIT_CORE, &none);
	reap(child(0));
	reap(child(3));
	reap(child(-SIGTERM));
	reap(child(-SIGKILL));
	reap(child(-1));
	if (!pthread_create(&thread, NULL, ends, NULL))
		pthread_join(thread, NULL);
	reap(child(77));
}

static void signals(void)
{
	pid_t pid = fork();

	if (!pid) {
		pause();
		_exit(0);
	}
	signal(SIGUSR1, SIG_IGN);
	signal(SIGUSR2, SIG_IGN);
	kill(getpid(), 0);
	kill(getpid(), SIGUSR1);
	syscall(SYS_tkill, gettid(), SIGUSR2);
	syscall(SYS_tgkill, getpid(), gettid(), SIGUSR1);
	kill(1, SIGUSR1); /* EPERM */
	kill(0x3fffffff, SIGUSR1); /* ESRCH */
	nanosleep(&(struct timespec){ 0, 500000000 }, NULL); /* as in child() */
	kill(pid, SIGTERM);
	reap(pid);
	kill(getpid(), SIGCONT);
}

static void mounts(void)
{
	if (!mount("none", "/nonexistent/place", "tmpfs", MS_NOSUID | MS_NODEV, "size=4096"))
		exit(7);
	if (!umount2("/nonexistent/place", MNT_DETACH))
		exit(7);
	if (!mount("/dev/nothing", "/nonexistent/last", "ext4", 0, NULL))
		exit(7);
}

static void stats(void)
{
	struct stat st;
	struct statx stx;
	struct statfs fs;

	syscall(SYS_stat, "/etc/passwd", &st);
	syscall(SYS_lstat, "/nonexistent/link", &st);
	syscall(SYS_newfstatat, AT_FDCWD, "/etc/hosts", &st, 0);
	statx(AT_FDCWD, "/etc/hostname", 0, STATX_ALL, &stx);
	statfs("/etc", &fs);
	syscall(SYS_stat, "/nonexistent/last", &st);
}

static void syncs(void)
{
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int fd = memfd_create("synced", 0);

	fsync(fd);
	fdatasync(fd);
	sync_file_range(fd, 0, 0, 0);
	syncfs(fd);
	msync(page, 4096, MS_SYNC);
	fsync(-1);
	close(fd);
	munmap(page, 4096);
}

static void naps(void)
{
	const struct timespec naps[] = { { 0, 2000000 }, { 0, 0 }, { 0, 30000000 }, { 0, 7000000 } };

	for (size_t i = 0; i < sizeof(naps) / sizeof(naps[0]); i++)
		syscall(SYS_nanosleep, &naps[i], NULL);
}

static void setuids(void)
{
	uid_t me = getuid();

	syscall(SYS_setuid, me);
	syscall(SYS_setuid, 0);
	syscall(SYS_setresuid, -1, me, -1);
	syscall(SYS_setfsuid, me);
	syscall(SYS_setresuid, 0, 0, 0);
}

static void hosts(void)
{
	const char *const names[] = { "127.0.0.1", "127.0.0.2", "127.0.0.9" };
	struct addrinfo *found, want = { .ai_flags = AI_NUMERICHOST };

	for (size_t i = 0; i < 3; i++)
		if (!getaddrinfo(names[i], "80", &want, &found))
			freeaddrinfo(found);
	gethostbyname("127.0.0.8");
}

static void threads(void)
{
	pthread_t thread;

	for (int i = 0; i < 5; i++)
		if (!pthread_create(&thread, NULL, ends, NULL))
			pthread_join(thread, NULL);
}

static void calls(void)
{
	char byte;

	for (int i = 0; i < 500; i++)
		syscall(SYS_getppid);
	for (int i = 0; i < 70; i++)
		if (read(-1, &byte, 1) >= 0)
			exit(7);
	for (int i = 0; i < 30; i++)
		syscall(SYS_sched_yield);
	for (int i = 0; i < 11; i++)
		syscall(SYS_umask, 022);
	syscall(SYS_getpriority, 0, 0);
}

static void forks(void)
{
	for (int i = 0; i < 12; i++)
		reap(child(0));
}

/* About half a second of this process's time; the functions are told apart in a profile. */
__attribute__((noinline, noclone)) unsigned long busy_inner(unsigned long x)
{
	for (int i = 0; i < 1000; i++)
		x = x * 2862933555777941757ul + 3037000493ul;
	return x;
}

__attribute__((noinline, noclone)) unsigned long busy_outer(void)
{
	struct timespec now, from;
	unsigned long x = 1;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &from);
	do {
		for (int i = 0; i < 100; i++)
			x = busy_inner(x);
		clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	} while ((now.tv_sec - from.tv_sec) * 1000000000l + now.tv_nsec - from.tv_nsec < 1200000000l);
	return x;
}

static void busy(void)
{
	say("sum", (long)(busy_outer() & 1));
}

__attribute__((noinline, noclone)) unsigned long busy_spin(unsigned long x, int times)
{
	for (int i = 0; i < times; i++)
		x = busy_inner(x);
	return x;
}

/* 3 calls of busy_spin, 300 of busy_inner. */
static void spins(void)
{
	unsigned long x = 0;

	for (int i = 1; i <= 3; i++)
		x += busy_spin(x, 50 * i);
	say("sum", (long)(x & 1));
}

__attribute__((noinline, noclone)) void *keeper(size_t size)
{
	void *volatile kept = malloc(size);

	return kept;
}

static void leaks(void)
{
	for (int i = 0; i < 10; i++)
		keeper(1234);
	for (int i = 0; i < 100; i++)
		free(keeper(777));
}

static const struct {
	const char *name;
	void (*play)(void);
} scenes[] = {
	{ "opens", opens },	{ "execs", execs }, { "exits", exits },	    { "signals", signals },
	{ "mounts", mounts },	{ "stats", stats }, { "syncs", syncs },	    { "naps", naps },
	{ "setuids", setuids }, { "hosts", hosts }, { "threads", threads }, { "calls", calls },
	{ "forks", forks },	{ "busy", busy },   { "spins", spins },	    { "leaks", leaks },
};

int main(void)
{
	char line[64];

	say("pid", getpid());
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		for (size_t i = 0; i < sizeof(scenes) / sizeof(scenes[0]); i++)
			if (!strcmp(line, scenes[i].name))
				scenes[i].play();
		say("did", 0);
	}
	return 0;
}
