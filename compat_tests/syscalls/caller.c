/*
 * Makes system calls of every kind and checks each result itself; obeys lines on stdin, as
 * compat_tests/attach/victim.c. "ready", then for each line NAME [N] the test of that name is run N
 * times, and "ran NAME", or "NAME: what was wrong".
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "caller.h"
#include "sites.h"

char wrong[256];

/* numbers and errors */

static void t_numbers(void)
{
	errno = 0;
	CHECK(syscall(9999) == -1 && errno == ENOSYS);
	CHECK(syscall(511) == -1 && errno == ENOSYS);
	CHECK(syscall(512) == -1 && errno == ENOSYS);
	CHECK(syscall(-1) == -1 && errno == ENOSYS);
	CHECK(close(-1) == -1 && errno == EBADF);
	CHECK(syscall(SYS_getpid) == getpid());
	CHECK(syscall(SYS_close, -1) == -1 && errno == EBADF);
	CHECK(open("/nonexistent/file", O_RDONLY) == -1 && errno == ENOENT);
}

/* threads */

static void *count_calls(void *arg)
{
	for (int i = 0; i < 50; i++)
		CHECK(getppid() == (pid_t)syscall(SYS_getppid));
	return arg;
}

static void t_threads(void)
{
	pthread_t t[8];
	int numbers[8];
	void *value;

	for (int i = 0; i < 8; i++)
		CHECK(!pthread_create(&t[i], NULL, count_calls, &numbers[i]));
	for (int i = 0; i < 8; i++)
		CHECK(!pthread_join(t[i], &value) && value == &numbers[i]);
}

/* libraries and code that come later */

static const char *plug;

static void t_dlopen(void)
{
	for (int i = 0; i < 5; i++) {
		void *lib = dlopen(plug, RTLD_NOW);
		long (*call)(long) = lib ? (long (*)(long))dlsym(lib, "plug_call") : NULL;

		CHECK(call && call(SYS_getpid) == getpid());
		CHECK(lib && !dlclose(lib));
	}
}

static void t_mapped(void)
{
	/* mov $39, %eax; syscall; mov %rax, %rdx; mov %rdx, %rax; ret */
	static const unsigned char code[] = { 0xb8, 39,	  0,	0,    0,    0x0f, 5,	0x48,
					      0x89, 0xc2, 0x48, 0x89, 0xd0, 0xc3, 0x90, 0x90 };
	char *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	long (*call)(void) = (long (*)(void))at;

	CHECK(at != MAP_FAILED);
	memcpy(at, code, sizeof(code));
	CHECK(!mprotect(at, 4096, PROT_READ | PROT_EXEC));
	for (int i = 0; i < 3; i++)
		CHECK(call() == getpid());
	CHECK(!munmap(at, 4096));
}

static const struct {
	const char *name;
	void (*run)(void);
} tests[] = {
	{ "sites", t_sites },	  { "jumps", t_jumps },		{ "numbers", t_numbers },
	{ "cancel", t_cancel },	  { "backtrace", t_backtrace }, { "interrupted", t_interrupted },
	{ "stopped", t_stopped }, { "clone", t_clone },		{ "forks", t_forks },
	{ "exec", t_exec },	  { "threads", t_threads },	{ "signals", t_signals },
	{ "entry", t_entry },	  { "dlopen", t_dlopen },	{ "mapped", t_mapped },
};

static volatile int busy;
static int nbusy;
static pthread_t workers[16];

static void *work(void *arg)
{
	while (busy) {
		CHECK(getppid() == (pid_t)syscall(SYS_getppid));
		CHECK(close(-1) == -1 && errno == EBADF);
	}
	return arg;
}

static void obey(const char *name, int times)
{
	if (!strcmp(name, "busy")) { /* threads that go on making calls, or (0) their end */
		busy = 0;
		while (nbusy)
			pthread_join(workers[--nbusy], NULL);
		busy = times > 0;
		for (; nbusy < times && nbusy < 16; nbusy++)
			CHECK(!pthread_create(&workers[nbusy], NULL, work, NULL));
	}
	for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++)
		for (int n = 0; n < times && !strcmp(tests[i].name, name); n++)
			tests[i].run();
	if (wrong[0])
		printf("%s: %s\n", name, wrong);
	else
		printf("ran %s\n", name);
	wrong[0] = 0;
}

int main(int argc, char **argv)
{
	char line[256], name[64];
	int times;

	plug = argc > 1 ? argv[1] : "";
	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("ready");
	while (fgets(line, sizeof(line), stdin))
		if (sscanf(line, "%63s %d", name, &times) == 2)
			obey(name, times);
	return 0;
}
