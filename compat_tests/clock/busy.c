/*
 * busy WHAT...: uses CPU time and minds what signals could do to it. Prints one line a thing:
 * NAME and "ok", or what was wrong; what it burns is a second of CPU time in all.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((noinline, noclone, noipa, visibility("default")))

static double used(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

EXPORT long spin(long n)
{
	volatile long x = 0;

	for (long i = 0; i < n; i++)
		x += i;
	return x;
}

EXPORT void burn(double seconds)
{
	double end = used(CLOCK_THREAD_CPUTIME_ID) + seconds;

	while (used(CLOCK_THREAD_CPUTIME_ID) < end)
		spin(50000);
}

static void say(const char *name, const char *wrong)
{
	printf("%s %s\n", name, wrong ? wrong : "ok");
	fflush(stdout);
}

static void *burner(void *seconds)
{
	burn(*(double *)seconds);
	return NULL;
}

static void beside(double seconds, void *(*run)(void *), const char *name)
{
	pthread_t busy, other;
	void *wrong;

	pthread_create(&busy, NULL, burner, &seconds);
	pthread_create(&other, NULL, run, NULL);
	pthread_join(busy, NULL);
	pthread_join(other, &wrong);
	say(name, wrong);
}

/* Every wait that a signal handler would cut short, each with a bit of work between. */
static void *waits(void *unused)
{
	struct timespec nap = { 0, 3000000 }, left;
	struct pollfd none = { .fd = -1 };
	int epoll = epoll_create1(0);
	struct epoll_event event;

	(void)unused;
	for (int i = 0; i < 20; i++) {
		burn(0.002);
		if (nanosleep(&nap, &left))
			return "nanosleep was interrupted";
		burn(0.002);
		if (poll(&none, 1, 2))
			return "poll was interrupted";
		burn(0.002);
		if (epoll_wait(epoll, &event, 1, 2))
			return "epoll_wait was interrupted";
		burn(0.002);
		if (usleep(2000))
			return "usleep was interrupted";
	}
	close(epoll);
	return NULL;
}

/* All signals are blocked here, and all are waited for. */
static void *waiter(void *unused)
{
	struct timespec while_ = { 0, 100000000 };
	sigset_t all;
	int number, fd;

	(void)unused;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	burn(0.1);
	number = sigtimedwait(&all, NULL, &while_);
	if (number > 0 || errno != EAGAIN)
		return "sigtimedwait got a signal";
	fd = signalfd(-1, &all, SFD_NONBLOCK);
	burn(0.1);
	if (read(fd, &(struct signalfd_siginfo){ 0 }, sizeof(struct signalfd_siginfo)) > 0)
		return "signalfd got a signal";
	close(fd);
	return NULL;
}

static volatile int cleaned, spinning;

static void clean(void *unused)
{
	(void)unused;
	cleaned++;
}

static void *canceled_in_read(void *fd)
{
	char byte;

	pthread_cleanup_push(clean, NULL);
	if (read(*(int *)fd, &byte, 1) < 0)
		return "read failed";
	pthread_cleanup_pop(0);
	return NULL;
}

static void *canceled_anywhere(void *unused)
{
	pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &(int){ 0 });
	pthread_cleanup_push(clean, NULL);
	spinning = 1;
	for (;;)
		spin(1000);
	pthread_cleanup_pop(0);
	return unused;
}

/* The first pthread_cancel() of a process brings the C library's handler. */
static void cancel(void)
{
	pthread_t reader, spinner;
	void *result;
	int pipes[2];

	if (pipe(pipes))
		exit(3);
	burn(0.1);
	pthread_create(&reader, NULL, canceled_in_read, pipes);
	pthread_create(&spinner, NULL, canceled_anywhere, NULL);
	while (burn(0.05), !spinning)
		;
	pthread_cancel(reader);
	pthread_join(reader, &result);
	if (result == PTHREAD_CANCELED) {
		pthread_cancel(spinner);
		pthread_join(spinner, &result);
	}
	say("cancel", result != PTHREAD_CANCELED ? "not canceled"
		      : cleaned != 2		 ? "not cleaned"
						 : NULL);
	burn(0.3);
}

static void children(void)
{
	int status, wrong = 0;

	for (int i = 0; i < 3; i++) {
		pid_t pid = fork();

		if (!pid) {
			burn(0.1);
			_exit(7);
		}
		wrong |= waitpid(pid, &status, 0) != pid || !WIFEXITED(status) ||
			 WEXITSTATUS(status) != 7;
	}
	say("children", wrong ? "a child died" : NULL);
}

/* A timer of the program's own, and a signal that interrupts because it asked for that. */
static volatile int alarms;

static void on_alarm(int number)
{
	alarms += number == SIGPROF;
}

static void own_timer(void)
{
	struct sigaction action = { .sa_handler = on_alarm };
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGPROF };
	struct itimerspec every = { { 0, 20000000 }, { 0, 20000000 } };
	timer_t timer;

	sigaction(SIGPROF, &action, NULL);
	if (timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &timer) ||
	    timer_settime(timer, 0, &every, NULL))
		exit(4);
	burn(0.2);
	timer_delete(timer);
	say("timer", alarms < 5 || alarms > 12 ? "its own timer is off" : NULL);
}

/* Touches pages that are new, in two goes. */
static void fault(void)
{
	enum { PAGES = 3000 };
	struct rusage before, after;
	char *page;

	getrusage(RUSAGE_SELF, &before);
	for (int half = 0; half < 2; half++) {
		page = mmap(NULL, PAGES * 4096L, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			    -1, 0);
		for (long i = 0; i < PAGES; i++)
			page[i * 4096] = 1;
		munmap(page, PAGES * 4096L);
	}
	getrusage(RUSAGE_SELF, &after);
	printf("faults %ld\n", after.ru_minflt - before.ru_minflt);
	fflush(stdout);
}

static volatile int over;

static void *until_over(void *unused)
{
	while (!over)
		burn(0.01);
	return unused;
}

/* Three threads are busy until a line is read. */
static void stay(void)
{
	struct pollfd in = { .fd = 0, .events = POLLIN };
	pthread_t other[2];

	for (int i = 0; i < 2; i++)
		pthread_create(&other[i], NULL, until_over, NULL);
	printf("pid %d\n", getpid());
	fflush(stdout);
	while (!poll(&in, 1, 0))
		burn(0.01);
	over = 1;
	for (int i = 0; i < 2; i++)
		pthread_join(other[i], NULL);
}

/* CPU time of children that were waited for, seconds: they are sampled too. */
static double of_children(void)
{
	struct rusage all;

	getrusage(RUSAGE_CHILDREN, &all);
	return (double)(all.ru_utime.tv_sec + all.ru_stime.tv_sec) +
	       (double)(all.ru_utime.tv_usec + all.ru_stime.tv_usec) / 1e6;
}

EXPORT void done(void)
{
	__asm__ volatile("nop; nop; nop; nop; nop");
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "waits"))
			beside(0.2, waits, "waits");
		else if (!strcmp(argv[i], "waiter"))
			beside(0.2, waiter, "waiter");
		else if (!strcmp(argv[i], "cancel"))
			cancel();
		else if (!strcmp(argv[i], "children"))
			children();
		else if (!strcmp(argv[i], "timer"))
			own_timer();
		else if (!strcmp(argv[i], "fault"))
			fault();
		else if (!strcmp(argv[i], "stay"))
			stay();
		else if (!strcmp(argv[i], "done"))
			done(), pause();
		else if (!strcmp(argv[i], "exec"))
			execv(argv[0], (char *[]){ argv[0], "burn", NULL });
		else if (!strcmp(argv[i], "burn"))
			burn(0.2);
		else
			burn(atof(argv[i]));
	}
	printf("used %.0f\n", 1000 * (used(CLOCK_PROCESS_CPUTIME_ID) + of_children()));
	return 0;
}
