/*
 * stacks: "ready"; then for each byte on stdin looks at memory around stacks of all kinds, and "0 N": the
 * number of looks. A tool's program reads what seen() is told of, and knows what it has to find.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

enum { PAGE = 4096, FAULTS = 1, TEXT = 2, SMALL = 64 << 10, FILL = 0x41 };

static unsigned int looks;

/* at: 8 bytes that are word; FAULTS: not to be read; TEXT: 63 bytes and NUL */
__attribute__((noinline, noipa)) void seen(const void *at, uint64_t word, int what)
{
	__asm__ volatile("" : : "r"(at), "r"(word), "r"(what) : "memory");
	__atomic_fetch_add(&looks, 1, __ATOMIC_RELAXED);
}

static void word(const void *at)
{
	uint64_t value;

	memcpy(&value, at, 8);
	seen(at, value, 0);
}

/* What is on the stack that this runs on, and deeper. */
__attribute__((noinline)) static void on_stack(unsigned int depth)
{
	volatile char room[3000];
	char text[64];
	uint64_t value = depth * 0x0101010101ull;

	memset((char *)room, FILL, sizeof(room));
	memset(text, FILL, sizeof(text));
	text[63] = 0;
	word(&value);
	word((char *)room + 1);
	word((char *)room + sizeof(room) - 8);
	seen(text, 0, TEXT);
	seen(text + 1, 1, TEXT);
	if (depth)
		on_stack(depth - 1);
	word(&value);
}

/* The end of the mapping that an address is in. */
static char *end_of(const void *address)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	unsigned long lo, hi, end = 0;
	char line[512];

	while (fgets(line, sizeof(line), maps))
		if (sscanf(line, "%lx-%lx", &lo, &hi) == 2 && (unsigned long)address >= lo &&
		    (unsigned long)address < hi)
			end = hi;
	fclose(maps);
	return (char *)end;
}

static void first(void)
{
	char *end = end_of(__builtin_frame_address(0));

	on_stack(2);
	word(end - 8);
	seen(end - 4, 0, FAULTS);
	seen(end, 0, FAULTS);
	on_stack(300);
	word((char *)__builtin_frame_address(0) - 600000); /* it has been there */
}

static void *thread(void *other)
{
	on_stack(5);
	word(other);
	word((void *)pthread_self());
	word((char *)pthread_self() + 64);
	return NULL;
}

static void threads(size_t guard, size_t size)
{
	uint64_t here = 4711;
	pthread_attr_t attr;
	pthread_t t[3];

	pthread_attr_init(&attr);
	pthread_attr_setguardsize(&attr, guard);
	pthread_attr_setstacksize(&attr, size);
	for (int i = 0; i < 3; i++)
		pthread_create(&t[i], &attr, thread, &here);
	for (int i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	pthread_attr_destroy(&attr);
}

static ucontext_t outer, inner;
static char *above;

static void coroutine(void)
{
	on_stack(3);
	word(above - 8);
	seen(above, 0, FAULTS);
	seen(above - 4, 0, FAULTS);
}

/* On memory that goes again, of another size each time, below what nobody may touch. */
static void coroutines(void)
{
	for (size_t n = 1; n < 4; n++) {
		char *stack = mmap(NULL, n * SMALL + PAGE, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		above = stack + n * SMALL;
		mprotect(above, PAGE, PROT_NONE);
		getcontext(&inner);
		inner.uc_stack.ss_sp = stack;
		inner.uc_stack.ss_size = n * SMALL;
		inner.uc_link = &outer;
		makecontext(&inner, coroutine, 0);
		swapcontext(&outer, &inner);
		munmap(above, PAGE);
		above -= PAGE;
		munmap(above, PAGE);
		seen(above + PAGE, 0, FAULTS);
		seen(above - 4, 0, FAULTS);
		munmap(stack, n * SMALL - PAGE);
		seen(stack, 0, FAULTS);
	}
}

static uint64_t *interrupted;

static void handler(int signo)
{
	(void)signo;
	on_stack(2);
	word(interrupted);
}

/* A handler on a stack of its own, which ends where nothing is. */
static void handlers(void)
{
	char *memory = mmap(NULL, 2 * SMALL, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	stack_t stack = { .ss_sp = memory, .ss_size = SMALL }, none = { .ss_flags = SS_DISABLE };
	struct sigaction act = { .sa_handler = handler, .sa_flags = SA_ONSTACK };
	uint64_t here = 815;

	mprotect(memory, SMALL, PROT_READ | PROT_WRITE);
	interrupted = &here;
	sigaction(SIGUSR1, &act, NULL);
	sigaltstack(&stack, NULL);
	raise(SIGUSR1);
	sigaltstack(&none, NULL);
	munmap(memory, 2 * SMALL);
	act.sa_flags = 0;
	sigaction(SIGUSR1, &act, NULL);
	raise(SIGUSR1);
}

static void *in_a_thread(void *nothing)
{
	coroutines();
	handlers();
	return nothing;
}

static void children(void)
{
	uint64_t here = 21;
	int status;
	pid_t child = fork();

	if (!child) {
		on_stack(4);
		threads(PAGE, 4 * SMALL);
		word(&here);
		_exit(looks & 0x7f);
	}
	waitpid(child, &status, 0);
	/* what it counted: 4 + 1 frames of 6, of its threads 3 times 6 of 6 and 3, 1 */
	looks += 5 * 6 + 3 * (6 * 6 + 3) + 1;
	child = vfork();
	if (!child) {
		seen(&here, 21, 0);
		_exit(0);
	}
	waitpid(child, &status, 0);
}

int main(void)
{
	pthread_t t;

	printf("ready\n");
	fflush(stdout);
	while (getchar() != EOF) {
		unsigned int before = looks;

		first();
		threads(PAGE, 8 << 20);
		threads(PAGE, 4 * SMALL);
		threads(0, 4 * SMALL);
		coroutines();
		handlers();
		pthread_create(&t, NULL, in_a_thread, NULL);
		pthread_join(t, NULL);
		children();
		printf("0 %u\n", looks - before);
		fflush(stdout);
	}
	return 0;
}
