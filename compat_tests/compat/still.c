/* A static program: opens its argument, forks, and its child execs another program. */
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	char *const none[] = { (char *)"true", (char *)"from still", NULL };
	char *const bare[] = { NULL };
	pid_t pid;

	open(argc > 1 ? argv[1] : "/nonexistent/still", O_RDONLY);
	for (int i = 0; i < 25; i++)
		getppid();
	pid = fork();
	if (!pid) {
		execve("/bin/true", none, bare);
		_exit(9);
	}
	return waitpid(pid, NULL, 0) != pid;
}
