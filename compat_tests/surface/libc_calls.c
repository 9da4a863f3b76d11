/* Calls once, or twice, each function of libc that libbpf_shim.so stands before. */
#define _GNU_SOURCE
#include <dirent.h>
#include <execinfo.h>
#include <fcntl.h>
#include <ftw.h>
#include <glob.h>
#include <mntent.h>
#include <poll.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#pragma GCC diagnostic ignored "-Wunused-result"

extern char **environ;

/* What libc does before main() is not to be counted. */
__attribute__((noipa)) void begin(void)
{
}

static int each(const char *path, const struct stat *st, int type, struct FTW *where)
{
	return 0;
}

static void descriptors(void)
{
	struct epoll_event ev = { .events = EPOLLIN };
	struct timespec t = { 0, 0 };
	struct timeval v = { 0, 0 };
	int e = epoll_create1(0), two[2], n, d;
	struct pollfd one = { .fd = -1 };
	fd_set set;

	pipe(two);
	epoll_ctl(e, EPOLL_CTL_ADD, two[0], &ev);
	epoll_wait(e, &ev, 1, 0);
	epoll_pwait(e, &ev, 1, 0, NULL);
	epoll_pwait2(e, &ev, 1, &t, NULL);
	poll(&one, 0, 0);
	ppoll(&one, 0, &t, NULL);
	FD_ZERO(&set);
	select(0, &set, NULL, NULL, &v);
	pselect(0, &set, NULL, NULL, &t, NULL);
	ioctl(two[0], FIONREAD, &n);
	fcntl(two[0], F_GETFD);
	d = dup(two[0]);
	dup2(d, 100);
	dup3(d, 101, O_CLOEXEC);
	close(100);
	close_range(101, 101, 0);
	closefrom(d);
}

static void paths(void)
{
	struct stat st;
	struct statx stx;
	struct statfs fs;
	char text[4096];
	glob_t g;
	FILE *file;
	DIR *dir;

	mkdir("d", 0700);
	mkdirat(AT_FDCWD, "e", 0700);
	chmod("d", 0755);
	fchmodat(AT_FDCWD, "d", 0700, 0);
	access("d", R_OK);
	faccessat(AT_FDCWD, "d", R_OK, 0);
	chdir("d");
	close(open("f", O_CREAT | O_RDWR, 0600));
	close(openat(AT_FDCWD, "f", O_RDONLY));
	fclose(fopen("f", "r"));
	dir = opendir(".");
	readdir(dir);
	readdir64(dir);
	closedir(dir);
	stat("f", &st);
	lstat("f", &st);
	fstatat(AT_FDCWD, "f", &st, 0);
	statx(AT_FDCWD, "f", 0, 0, &stx);
	statfs(".", &fs);
	link("f", "g");
	linkat(AT_FDCWD, "f", AT_FDCWD, "h", 0);
	symlink("f", "s");
	symlinkat("f", AT_FDCWD, "t");
	readlink("s", text, sizeof(text));
	readlinkat(AT_FDCWD, "t", text, sizeof(text));
	realpath("s", text);
	glob("*", 0, NULL, &g);
	globfree(&g);
	nftw(".", each, 4, FTW_PHYS);
	file = setmntent("/proc/self/mounts", "r");
	endmntent(file);
	rename("g", "i");
	renameat(AT_FDCWD, "i", AT_FDCWD, "j");
	renameat2(AT_FDCWD, "j", AT_FDCWD, "k", 0);
	remove("k");
	unlink("s");
	unlinkat(AT_FDCWD, "t", 0);
	unlink("f");
	unlink("h");
	chdir("..");
	rmdir("d");
	rmdir("e");
}

static void programs(void)
{
	char *argv[] = { "true", NULL }, *none[] = { NULL };
	const char *file = "/nonexistent/program";
	pid_t pid;

	posix_spawn(&pid, "/bin/true", NULL, NULL, argv, environ);
	waitpid(pid, NULL, 0);
	posix_spawnp(&pid, "/bin/true", NULL, NULL, argv, environ);
	waitpid(pid, NULL, 0);
	execl(file, file, NULL);
	execle(file, file, NULL, none);
	execlp(file, file, NULL);
	execv(file, argv);
	execve(file, argv, none);
	execvp(file, argv);
	execvpe(file, argv, none);
	execveat(AT_FDCWD, file, argv, none, 0);
	fexecve(1000, argv, none);
}

int main(void)
{
	char folder[] = "/tmp/libc_calls-XXXXXX";
	struct rlimit limit;
	void *at[8];

	begin();
	chdir(mkdtemp(folder));
	getenv("PATH");
	geteuid();
	getrlimit(RLIMIT_MEMLOCK, &limit);
	setrlimit(RLIMIT_MEMLOCK, &limit);
	prlimit(0, RLIMIT_MEMLOCK, NULL, &limit);
	prctl(PR_GET_DUMPABLE);
	syscall(SYS_getpid);
	munmap(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 4096);
	backtrace(at, 8);
	descriptors();
	paths();
	programs();
	chdir("/");
	rmdir(folder);
	return 0;
}
