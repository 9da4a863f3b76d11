/* A child of fork and one of vfork, whose numbers it prints; both end with the end of stdin. */
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

static void wait_for_end(void)
{
	char c;

	while (read(0, &c, 1) > 0)
		;
}

int main(void)
{
	volatile pid_t forked = fork();
	pid_t pid;

	if (!forked) {
		wait_for_end();
		_exit(0);
	}
	pid = vfork();
	if (!pid) {
		char text[64];
		int n = snprintf(text, sizeof(text), "%d %d\n", getpid(), forked);

		if (write(1, text, n) == n)
			wait_for_end();
		_exit(0);
	}
	while (wait(NULL) > 0)
		;
	return 0;
}
