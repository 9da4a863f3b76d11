/*
 * spawner: starts /usr/bin/env by each function that starts programs, with an environment of its own that
 * has EMPTY=FUNCTION in it alone; each prints its environment after a line with the function's name.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const char path[] = "/usr/bin/env";
static char *argv[] = { "env", "LAST=1", NULL };
static char mark[64];
static char *envp[] = { mark, NULL };

enum {
	EXECVE,
	EXECV,
	EXECVP,
	EXECVPE,
	EXECL,
	EXECLP,
	EXECLE,
	FEXECVE,
	EXECVEAT,
	VFORK,
	SPAWN,
	SPAWNP,
	ALL
};
static const char *const names[ALL] = { "execve", "execv",   "execvp",	 "execvpe", "execl", "execlp",
					"execle", "fexecve", "execveat", "vfork",   "spawn", "spawnp" };

static void become(int how)
{
	int fd;

	environ = envp;
	switch (how) {
	case EXECVE:
	case VFORK: execve(path, argv, envp); break;
	case EXECV: execv(path, argv); break;
	case EXECVP: execvp("env", argv); break;
	case EXECVPE: execvpe("env", argv, envp); break;
	case EXECL: execl(path, "env", "LAST=1", NULL); break;
	case EXECLP: execlp("env", "env", "LAST=1", NULL); break;
	case EXECLE: execle(path, "env", "LAST=1", NULL, envp); break;
	case FEXECVE:
		fd = open(path, O_RDONLY);
		fexecve(fd, argv, envp);
		break;
	case EXECVEAT: execveat(AT_FDCWD, path, argv, envp, 0); break;
	}
	_exit(127);
}

int main(void)
{
	for (int how = 0; how < ALL; how++) {
		pid_t pid = 0;
		int status;

		printf("%s\n", names[how]);
		fflush(stdout);
		snprintf(mark, sizeof(mark), "EMPTY=%s", names[how]);
		if (how == SPAWN || how == SPAWNP) {
			if (how == SPAWN ? posix_spawn(&pid, path, NULL, NULL, argv, envp)
					 : posix_spawnp(&pid, "env", NULL, NULL, argv, envp))
				return 1;
		} else if (how == VFORK) {
			char **before = environ;

			pid = vfork();
			if (!pid)
				become(how);
			environ = before;
		} else {
			pid = fork();
			if (!pid)
				become(how);
		}
		if (waitpid(pid, &status, 0) != pid || status)
			return 1;
	}
	return 0;
}
