/* uncounted HOW: forbids itself to read the time stamp counter (PR_SET_TSC), and goes on being probed. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

__attribute__((noinline)) void touched(void)
{
	__asm__ volatile("nop\n\tnop\n\tnop\n\tnop\n\tnop");
}

__attribute__((noinline)) void touched_too(void)
{
	__asm__ volatile("nop\n\tnop\n\tnop\n\tnop\n\tnop\n\tnop");
}

static void touch(int times)
{
	for (int i = 0; i < times; i++) {
		touched();
		touched_too();
	}
}

/* by an instruction that no library has */
static long forbid(void)
{
	long ret = SYS_prctl;

	__asm__ volatile("syscall"
			 : "+a"(ret)
			 : "D"((long)PR_SET_TSC), "S"((long)PR_TSC_SIGSEGV), "d"(0L)
			 : "rcx", "r11", "memory");
	return ret;
}

static void *new_thread(void *arg)
{
	(void)arg;
	forbid();
	touch(1000);
	return NULL;
}

int main(int argc, char **argv)
{
	const char *how = argc > 1 ? argv[1] : "";
	pthread_t thread;

	if (!strcmp(how, "before"))
		forbid();
	else
		touch(5000);
	if (!strcmp(how, "library"))
		prctl(PR_SET_TSC, PR_TSC_SIGSEGV);
	else if (!strcmp(how, "thread") && !pthread_create(&thread, NULL, new_thread, NULL))
		pthread_join(thread, NULL);
	touch(1000);
	printf("%s: alive\n", how);
	return 0;
}
