/* bridged: calls by functions that look whether their thread is cancelled (bridges.S). The handler of
 * SIGUSR1, which a program sends as the call begins, is as that of pthread_cancel(): it cancels, and ends
 * what waits if the call is not made yet. A line each, of what ended it; a wait that nothing ends is the alarm's. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { WAITS = 4242, LENGTH = 12345, PAGE = 4096 };

typedef long bridge(volatile int *flag, long nr, long a, long b, long c, long d, long e, long f);
bridge bridge_fill, bridge_mark, bridge_look;
extern char bridge_fill_end[], bridge_mark_end[], bridge_look_end[];
void bridge_out(void);

static const struct {
	const char *name;
	bridge *run;
	char *end;
} all[] = { { "fill", bridge_fill, bridge_fill_end },
	    { "mark", bridge_mark, bridge_mark_end },
	    { "look", bridge_look, bridge_look_end } };

static volatile int flag, now;
static sigjmp_buf away;

void bridge_out(void)
{
	siglongjmp(away, 1);
}

static void on_signal(int sig, siginfo_t *info, void *context)
{
	uintptr_t at = (uintptr_t)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];

	(void)sig;
	(void)info;
	flag |= 8;
	if (at >= (uintptr_t)all[now].run && at < (uintptr_t)all[now].end)
		siglongjmp(away, 1);
}

int main(int argc, char **argv)
{
	struct sigaction act = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART };
	static char there[PAGE];
	int p[2], fd = open(argv[0], O_RDONLY);

	(void)argc;
	if (pipe(p) || sigaction(SIGUSR1, &act, NULL) || pread(fd, there, PAGE, PAGE) != PAGE)
		return 1;
	alarm(20);
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (now = 0; now < 3; now++) {
		bridge *run = all[now].run;
		char c, *mapped;

		flag = 0;
		mapped = (char *)run(&flag, SYS_mmap, 0, LENGTH, PROT_READ, MAP_PRIVATE, fd, PAGE);
		printf("%s mapped %d", all[now].name, !memcmp(mapped, there, PAGE));
		printf(" uid %ld", run(&flag, SYS_getuid, 1, 2, 3, 4, 5, 6));
		printf(" none %ld\n", run(&flag, SYS_close, -1, 0, 0, 0, 0, 0));
		if (!sigsetjmp(away, 1))
			printf("read %ld\n", run(&flag, SYS_read, p[0], (long)&c, WAITS, 0, 0, 0));
		else
			printf("cancelled %d\n", flag);
		if (!sigsetjmp(away, 1)) /* nor is one made by who is cancelled already */
			printf("read %ld\n", run(&flag, SYS_read, p[0], (long)&c, WAITS, 0, 0, 0));
		else
			printf("cancelled %d\n", flag);
	}
	return 0;
}
