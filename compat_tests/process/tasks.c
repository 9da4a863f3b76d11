/*
 * tasks: becomes one thing after another and says so: at each stage it prints what it is, by its own
 * system calls, then calls mark(stage). One line a stage: name=value pairs.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

__attribute__((noinline)) void mark(unsigned int stage)
{
	__asm__ volatile("" : : "r"(stage) : "memory");
}

static void line_of(const char *path, char *out, size_t size)
{
	FILE *file = fopen(path, "r");

	out[0] = 0;
	if (file && fgets(out, (int)size, file))
		out[strcspn(out, "\n")] = 0;
	if (file)
		fclose(file);
}

static unsigned long space(const char *path)
{
	struct stat st;

	return stat(path, &st) ? 0 : (unsigned long)st.st_ino;
}

static void stage(unsigned int number)
{
	char own[32] = "", leader[32], parent[32], path[64], text[1024], *rest;
	uid_t uid, euid, suid;
	gid_t gid, egid, sgid;
	unsigned long long start;
	long prio, nice;

	prctl(PR_GET_NAME, own);
	line_of("/proc/self/comm", leader, sizeof(leader));
	snprintf(path, sizeof(path), "/proc/%d/comm", getppid());
	line_of(path, parent, sizeof(parent));
	line_of("/proc/thread-self/stat", text, sizeof(text));
	rest = strrchr(text, ')') + 2;
	if (sscanf(rest,
		   "%*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %ld %ld %*s %*s %llu",
		   &prio, &nice, &start) != 3)
		exit(1);
	getresuid(&uid, &euid, &suid);
	getresgid(&gid, &egid, &sgid);
	printf("stage=%u pid=%ld tgid=%d parent=%d leader=%d comm=%s leader_comm=%s parent_comm=%s "
	       "prio=%ld static_prio=%ld start=%llu mnt=%lu uts=%lu user=%lu uid=%u euid=%u suid=%u "
	       "fsuid=%d gid=%u egid=%u\n",
	       number, syscall(SYS_gettid), getpid(), getppid(), getpid(), own, leader, parent,
	       prio + 100, nice + 120, start, space("/proc/thread-self/ns/mnt"),
	       space("/proc/thread-self/ns/uts"), space("/proc/thread-self/ns/user"), uid, euid, suid,
	       setfsuid((uid_t)-1), gid, egid);
	fflush(stdout);
	mark(number);
}

static void *thread(void *unused)
{
	stage(2);
	prctl(PR_SET_NAME, "of a thread");
	setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 7);
	stage(3);
	return unused;
}

static void in_child(void (*what)(void))
{
	pid_t pid = fork();
	int status;

	if (!pid) {
		what();
		exit(0);
	}
	if (waitpid(pid, &status, 0) != pid || status)
		exit(1);
}

static void plain(void)
{
	stage(4);
}

/* Its parent ends; it waits until it has another one. */
static void orphan(void)
{
	pid_t parent = getpid();

	if (fork())
		_exit(0);
	while (getppid() == parent)
		sched_yield();
	stage(5);
}

/* Until the orphan has ended too: it holds the pipe's end. */
static void with_orphan(void)
{
	int ends[2];
	char byte;

	if (pipe(ends))
		exit(1);
	in_child(orphan);
	close(ends[1]);
	if (read(ends[0], &byte, 1))
		exit(1);
	close(ends[0]);
}

/* Real user 0 only: become others. */
static void other_user(void)
{
	if (getuid() == 0 && (setresgid(1234, 1235, 1236) || setresuid(2234, 2235, 2236)))
		exit(1);
	stage(6);
}

static void own_names(void)
{
	if (unshare(CLONE_NEWUTS) && unshare(CLONE_NEWUSER | CLONE_NEWUTS))
		printf("no namespace\n");
	stage(7);
}

int main(int argc, char **argv)
{
	pthread_t id;

	if (argc > 1) {
		stage(8);
		return 0;
	}
	stage(0);
	prctl(PR_SET_NAME, "a new name, cut off");
	stage(1);
	pthread_create(&id, NULL, thread, NULL);
	pthread_join(id, NULL);
	in_child(plain);
	with_orphan();
	in_child(other_user);
	in_child(own_names);
	execl("/proc/self/exe", argv[0], "again", NULL);
	return 1;
}
