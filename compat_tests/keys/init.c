/* The first process of a guest: file systems, then COMMAND as an ordinary user (init.conf: uid, then its
 * arguments, a line each). What it ends with stands in the console's last line; the guest then stops. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char text[4096], *words[64];

static void read_command(void)
{
	FILE *conf = fopen("/init.conf", "r");
	int n = 0;

	text[conf ? fread(text, 1, sizeof(text) - 1, conf) : 0] = 0;
	for (char *word = strtok(text, "\n"); word && n < 63; word = strtok(NULL, "\n"))
		words[n++] = word;
}

static void mounts(void)
{
	mount("proc", "/proc", "proc", 0, NULL);
	mount("sysfs", "/sys", "sysfs", 0, NULL);
	mount("dev", "/dev", "devtmpfs", 0, NULL);
	mkdir("/dev/shm", 01777);
	mount("tmpfs", "/dev/shm", "tmpfs", 0, "mode=1777");
	mount("tmpfs", "/tmp", "tmpfs", 0, "mode=1777");
}

int main(void)
{
	static char *env[] = { "PATH=/usr/bin:/bin", "HOME=/tmp", "PYTHONDONTWRITEBYTECODE=1", NULL };
	int status = 0, uid;
	pid_t child;

	mounts();
	read_command();
	uid = atoi(words[0] ? words[0] : "65534");
	child = fork();
	if (!child) {
		if (setgid((gid_t)uid) || setuid((uid_t)uid))
			_exit(125);
		execve(words[1], words + 1, env);
		perror(words[1]);
		_exit(126);
	}
	while (wait(&status) != child)
		;
	printf("\nguest: ended %d\n", WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status));
	fflush(stdout);
	sync();
	reboot(RB_AUTOBOOT);
	return 1;
}
