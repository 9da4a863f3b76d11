/*
 * ways WAY PROGRAM [asked]: starts the program in one way, with an empty environment, waits for it and ends with
 * its status. Calls named raw are system call instructions of this program's own. together: four threads start
 * it three times each. asked: once for each line of stdin, whose status is printed.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static char *empty[] = { NULL }, *argv_of[2];
static const char *program;

static long raw(long nr, long a, long b, long c, long d, long e)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	return ret;
}

static void raw_exec(void)
{
	raw(SYS_execve, (long)program, (long)argv_of, (long)empty, 0, 0);
}

static void raw_at(int fd, const char *path, int flags)
{
	raw(SYS_execveat, fd, (long)path, (long)argv_of, (long)empty, flags);
}

static int memfd(void)
{
	int from = open(program, O_RDONLY), to = memfd_create(strrchr(program, '/') + 1, MFD_CLOEXEC);
	struct stat st;

	if (from < 0 || to < 0 || fstat(from, &st) ||
	    sendfile(to, from, NULL, (size_t)st.st_size) != st.st_size)
		return -1;
	close(from);
	return to;
}

static void *in_thread(void *unused)
{
	raw_exec();
	return unused;
}

static void become(const char *way)
{
	char folder[4096];
	pthread_t thread;

	snprintf(folder, sizeof(folder), "%.*s", (int)(strrchr(program, '/') - program), program);
	if (!strcmp(way, "raw") || !strcmp(way, "vfork"))
		raw_exec();
	else if (!strcmp(way, "at"))
		raw_at(open(folder, O_PATH), strrchr(program, '/') + 1, 0);
	else if (!strcmp(way, "fd"))
		raw_at(open(program, O_PATH), "", AT_EMPTY_PATH);
	else if (!strcmp(way, "memfd"))
		raw_at(memfd(), "", AT_EMPTY_PATH);
	else if (!strcmp(way, "fexecve"))
		fexecve(open(program, O_RDONLY | O_CLOEXEC), argv_of, empty);
	else if (!strcmp(way, "libc"))
		execve(program, argv_of, empty);
	else if (!strcmp(way, "thread") && !pthread_create(&thread, NULL, in_thread, NULL))
		pthread_join(thread, NULL);
	_exit(127);
}

static int once(const char *way)
{
	int status;
	pid_t pid;

	if (!strcmp(way, "spawn")) {
		if (posix_spawn(&pid, program, NULL, NULL, argv_of, empty))
			return 125;
	} else {
		pid = strcmp(way, "vfork") ? fork() : vfork();
		if (!pid)
			become(way);
	}
	if (waitpid(pid, &status, 0) != pid)
		return 124;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 123;
}

enum { THREADS = 4, TIMES = 3 };

static void *spawns(void *status)
{
	for (int i = 0; i < TIMES; i++)
		*(int *)status |= once("spawn");
	return NULL;
}

/* All end with one status, or with bits of several. */
static int together(void)
{
	pthread_t threads[THREADS];
	int status[THREADS] = { 0 }, all = 0;

	for (int i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i], NULL, spawns, &status[i]))
			return 122;
	for (int i = 0; i < THREADS; i++) {
		pthread_join(threads[i], NULL);
		all |= status[i];
	}
	return all;
}

int main(int argc, char **argv)
{
	char line[16];

	if (argc < 3)
		return 126;
	program = argv_of[0] = argv[2];
	if (argc == 3)
		return strcmp(argv[1], "together") ? once(argv[1]) : together();
	printf("pid %d\n", (int)getpid());
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		printf("status %d\n", once(argv[1]));
		fflush(stdout);
	}
	return 0;
}
