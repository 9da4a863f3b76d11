/*
 * Everything that unwinds, through functions that are probed at their returns: says what it sees,
 * the same with probes as without. "ready"; for each line on stdin one round, ended by "end"; for
 * "hold": "holding" in a function, and after another line what it returned.
 */
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <exception>
#include <execinfo.h>
#include <pthread.h>
#include <stdexcept>
#include <sys/wait.h>
#include <string>
#include <thread>
#include <unistd.h>
#include <unwind.h>
#ifdef WITH_LIBUNWIND
#define UNW_LOCAL_ONLY
#include <libunwind.h>
#endif

#define PROBED extern "C" __attribute__((noinline, noclone))

static volatile long sink;

struct Noisy {
	const char *name;
	long depth;
	~Noisy() { printf("~%s %ld\n", name, depth); }
};

static const char *name_of(void *at)
{
	Dl_info info;

	return dladdr((char *)at - 1, &info) && info.dli_sname ? info.dli_sname : "?";
}

static void print_backtrace(int room)
{
	void *at[64];
	int n = backtrace(at, room);

	printf("backtrace of %d:", n);
	for (int i = 0; i < n; i++) {
		printf(" %s", name_of(at[i]));
		if (!strcmp(name_of(at[i]), "main"))
			break; /* below it, libc's own */
	}
	printf("\n");
}

static _Unwind_Reason_Code one_frame(struct _Unwind_Context *context, void *count)
{
	++*(int *)count;
	return strcmp(name_of((void *)_Unwind_GetIP(context)), "main") ? _URC_NO_REASON :
									  _URC_END_OF_STACK;
}

PROBED long frames(long depth)
{
	if (depth) {
		sink = frames(depth - 1);
		return sink + 1;
	}
	int count = 0;

	_Unwind_Backtrace(one_frame, &count);
	printf("%d frames\n", count);
	print_backtrace(64);
	print_backtrace(5);
	return 0;
}

#ifdef WITH_LIBUNWIND
PROBED long stepped(long depth)
{
	if (depth) {
		sink = stepped(depth - 1);
		return sink + 1;
	}
	unw_context_t context;
	unw_cursor_t cursor;
	int seen = 0;

	unw_getcontext(&context);
	unw_init_local(&cursor, &context);
	do {
		char name[64] = "";
		unw_word_t offset;

		unw_get_proc_name(&cursor, name, sizeof(name), &offset);
		seen += !strcmp(name, "stepped");
		if (!strcmp(name, "main"))
			printf("main after %d of stepped\n", seen);
	} while (unw_step(&cursor) > 0);
	return 0;
}
#endif

PROBED long thrower(long depth)
{
	Noisy noisy = { "thrower", depth };

	if (!depth)
		throw std::runtime_error("thrown");
	sink = thrower(depth - 1);
	return sink;
}

PROBED long again(long depth)
{
	try {
		sink = thrower(depth);
	} catch (std::exception &e) {
		printf("again: %s\n", e.what());
		print_backtrace(64);
		throw;
	}
	return sink;
}

PROBED long nested(long depth)
{
	try {
		sink = again(depth);
	} catch (...) {
		std::throw_with_nested(std::logic_error("outer"));
	}
	return sink;
}

/* A chain of tail calls, the last of which throws. */
PROBED long last(long x)
{
	if (x > 0)
		throw x;
	return x;
}
PROBED long middle(long x)
{
	return last(x + 1);
}
PROBED long first(long x)
{
	return middle(x + 1);
}

PROBED long carried(long depth, std::exception_ptr *into)
{
	try {
		sink = thrower(depth);
	} catch (...) {
		*into = std::current_exception();
	}
	return depth;
}

static void throwing()
{
	try {
		nested(3);
	} catch (std::exception &e) {
		printf("caught %s", e.what());
		try {
			std::rethrow_if_nested(e);
		} catch (std::exception &inner) {
			printf(" of %s\n", inner.what());
		}
	}
	try {
		first(40);
	} catch (long x) {
		printf("tail calls: %ld, then %ld\n", x, first(-2));
	}
	std::exception_ptr pointer;
	std::thread([&] { carried(2, &pointer); }).join();
	try {
		std::rethrow_exception(pointer);
	} catch (std::exception &e) {
		printf("from a thread: %s\n", e.what());
	}
	printf("uncaught %d\n", std::uncaught_exceptions());
}

PROBED long ending(long depth, bool cancelled)
{
	Noisy noisy = { "ending", depth };

	if (depth) {
		sink = ending(depth - 1, cancelled);
		return sink;
	}
	try {
		while (cancelled)
			pause();
		pthread_exit((void *)7);
	} catch (...) {
		printf("forced\n");
		throw;
	}
	return 0;
}

static void *run_ending(void *cancelled)
{
	return (void *)ending(3, cancelled != NULL);
}

static void ends()
{
	for (long cancelled = 0; cancelled < 2; cancelled++) {
		pthread_t thread;
		void *result;

		pthread_create(&thread, NULL, run_ending, (void *)cancelled);
		if (cancelled)
			pthread_cancel(thread);
		pthread_join(thread, &result);
		printf("ended with %ld\n", (long)result);
	}
}

PROBED long never(long depth) noexcept
{
	return thrower(depth);
}

/* An exception that may not leave: the handler still sees where it came from. */
static void terminating()
{
	fflush(stdout);
	pid_t pid = fork();

	if (!pid) {
		std::set_terminate([] {
			printf("terminate\n");
			print_backtrace(64);
			fflush(stdout);
			_exit(0);
		});
		never(2);
	}
	waitpid(pid, NULL, 0);
}

/* Stands still in a chain of frames until the next line. */
PROBED long held(long depth)
{
	if (depth) {
		sink = held(depth - 1);
		return sink + 1;
	}
	char line[16];

	printf("holding\n");
	return fgets(line, sizeof(line), stdin) != NULL;
}

int main()
{
	char line[16];

	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("ready\n");
	while (fgets(line, sizeof(line), stdin)) {
		if (line[0] == 'h') {
			printf("held %ld\n", held(6));
			continue;
		}
		frames(6);
#ifdef WITH_LIBUNWIND
		stepped(6);
#endif
		throwing();
		ends();
		terminating();
		printf("end\n");
	}
	return 0;
}
