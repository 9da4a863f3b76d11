/*
 * workload CASE...: makes a child for each case and waits for it; prints "CASE PID STATUS" (of wait(2)).
 * Cases: true, false, exit7 (execs of others); die:N (kills itself by signal N), kill:N (is killed);
 * threads (group exit while threads sleep), worker (a thread exits the group), leader (the first
 * thread ends first), fork3, fault:N (makes the mistake that signal N is for: 4, 8, 11, 13, 25), crash, trap (no exec), vfork2, group (signals to a group), texec (a thread execs).
 * Each case but those of others' programs runs as a new image of this program.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void *sleeper(void *unused)
{
	for (;;)
		pause();
	return unused;
}

static void *ender(void *code)
{
	syscall(SYS_exit_group, (long)code);
	return NULL;
}

static void *after_leader(void *leader)
{
	pthread_join(*(pthread_t *)leader, NULL);
	exit(4);
}

static void *execs(void *unused)
{
	execl("/bin/false", "false", NULL);
	return unused;
}

static void threads(int count)
{
	pthread_t id;

	for (int i = 0; i < count; i++)
		pthread_create(&id, NULL, sleeper, NULL);
}

/* A child that sleeps, in a process group of its own. */
static pid_t child(int ready)
{
	pid_t pid = fork();

	if (!pid) {
		setpgid(0, 0);
		if (write(ready, "", 1) != 1)
			_exit(1);
		sleeper(NULL);
	}
	return pid;
}

static int of_group(void)
{
	int ready[2], status;
	char byte;
	pid_t pid;

	if (pipe(ready))
		return 1;
	pid = child(ready[1]);
	if (read(ready[0], &byte, 1) != 1 || kill(-pid, SIGUSR1) || waitpid(pid, &status, 0) != pid)
		return 1;
	return WTERMSIG(status);
}

/* The kernel ends it. */
static int fault(int sig)
{
	const struct rlimit none = { 0, 0 };
	volatile int *volatile nowhere = NULL;
	volatile int zero = 0;
	int ends[2];

	setrlimit(RLIMIT_CORE, &none);
	if (sig == SIGILL)
		__asm__ volatile("ud2");
	else if (sig == SIGFPE)
		zero = 1000 / zero;
	else if (sig == SIGSEGV)
		*nowhere = 1;
	else if (sig == SIGPIPE && !pipe(ends) && !close(ends[0]))
		zero = (int)write(ends[1], "", 1);
	else if (sig == SIGXFSZ && !setrlimit(RLIMIT_FSIZE, &none))
		zero = (int)write((int)syscall(SYS_memfd_create, "", 0), "", 1);
	return 99;
}

/* As the image that the case asks for. */
static int be(const char *what)
{
	static pthread_t leader; /* its stack goes with it */
	pthread_t id;

	leader = pthread_self();

	if (!strncmp(what, "die:", 4)) {
		kill(getpid(), atoi(what + 4));
		return 99;
	}
	if (!strncmp(what, "fault:", 6))
		return fault(atoi(what + 6));
	if (!strncmp(what, "kill:", 5)) {
		if (write(3, "", 1) != 1)
			return 98;
		sleeper(NULL);
	}
	if (!strcmp(what, "threads")) {
		threads(3);
		syscall(SYS_exit_group, 9);
	}
	if (!strcmp(what, "worker")) {
		threads(2);
		pthread_create(&id, NULL, ender, (void *)6L);
		sleeper(NULL);
	}
	if (!strcmp(what, "leader")) {
		pthread_create(&id, NULL, after_leader, &leader);
		pthread_exit(NULL);
	}
	if (!strcmp(what, "texec")) {
		pthread_create(&id, NULL, execs, NULL);
		sleeper(NULL);
	}
	if (!strcmp(what, "group"))
		return of_group();
	if (!strcmp(what, "ignored")) {
		signal(SIGUSR2, SIG_IGN);
		kill(getpid(), SIGUSR2); /* ignored */
		kill(getpid(), SIGWINCH); /* by default */
		signal(SIGUSR1, SIG_IGN);
		sigset_t set;
		sigemptyset(&set);
		sigaddset(&set, SIGUSR1);
		sigprocmask(SIG_BLOCK, &set, NULL);
		kill(getpid(), SIGUSR1); /* blocked: kept */
		kill(getpid(), SIGUSR1); /* is there already */
		raise(SIGUSR2);
		sigqueue(getpid(), SIGUSR2, (union sigval){ .sival_int = 1 });
	}
	return 0;
}

static pid_t start(const char *self, const char *what, int *ready)
{
	static const struct {
		const char *name;
		char *argv[4];
	} others[] = { { "true", { "/bin/true", NULL } },
		       { "false", { "/bin/false", NULL } },
		       { "exit7", { "/bin/sh", "-c", "exit 7", NULL } } };
	char *argv[] = { (char *)self, "be", (char *)what, NULL }, **run = argv;
	volatile int *volatile nowhere = NULL;
	int ends[2];
	pid_t pid;

	for (unsigned int i = 0; i < 3; i++)
		if (!strcmp(what, others[i].name))
			run = (char **)others[i].argv;
	if (pipe(ends))
		exit(1);
	*ready = ends[0];
	if (!strcmp(what, "vfork2")) {
		pid = vfork();
		if (!pid)
			_exit(2);
		close(ends[1]);
		return pid;
	}
	pid = fork();
	if (!pid) {
		if (!strcmp(what, "fork3"))
			_exit(3);
		if (!strcmp(what, "crash"))
			*nowhere = 1;
		if (!strcmp(what, "trap"))
			__builtin_trap();
		dup2(ends[1], 3);
		execv(run[0], run);
		_exit(127);
	}
	close(ends[1]);
	return pid;
}

int main(int argc, char **argv)
{
	struct rlimit none = { 0, 0 };

	if (argc == 3 && !strcmp(argv[1], "be"))
		return be(argv[2]);
	setrlimit(RLIMIT_CORE, &none);
	printf("self %d %d\n", getpid(), getppid());
	for (int i = 1; i < argc; i++) {
		int ready, status;
		pid_t pid = start(argv[0], argv[i], &ready);
		char byte;

		if (!strncmp(argv[i], "kill:", 5)) {
			if (read(ready, &byte, 1) != 1)
				return 1;
			kill(pid, atoi(argv[i] + 5));
		}
		close(ready);
		if (waitpid(pid, &status, 0) != pid)
			return 1;
		printf("%s %d %d\n", argv[i], pid, status);
		fflush(stdout);
	}
	return 0;
}
