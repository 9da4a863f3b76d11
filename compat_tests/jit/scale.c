/*
 * Scales that are made up, and what an image makes of them: one that stands still; and one of a counter that is
 * made up too, ten an instruction, where the image is stepped through and a handler's run is in between.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <string.h>
#include <ucontext.h>

#include "shim_run.h"

enum { STEP = 10, HANDLERS = 5000, RDTSC = 0x310f, TRAP_FLAG = 0x100 };

typedef u64 (*image_fn)(u64, struct shim_run *);

static struct shim_clock *clock_of(const struct shim_run *run)
{
	return &((struct shim_thread *)run->thread)->clock;
}

/* SHIM_FUNC_CLOCK_OWN: 7, and the scale stands at 1000 from now on. */
u64 scale_stand(u64 r1, u64 r2, u64 r3, u64 r4, u64 r5, struct shim_run *run)
{
	struct shim_clock *clock = clock_of(run);

	(void)r1, (void)r2, (void)r3, (void)r4, (void)r5;
	clock->ns = 1000;
	clock->rate = 0;
	clock->tsc = __builtin_ia32_rdtsc();
	return 7;
}

static struct {
	struct shim_run *run;
	u64 begin, end, counter, steps, handler_at;
} stepped;

/* The scale, of 1 ns a cycle, begins here. */
static void make_anew(void)
{
	clock_of(stepped.run)->tsc = clock_of(stepped.run)->ns = stepped.counter;
}

static void on_step(int sig, siginfo_t *info, void *context)
{
	greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
	u64 ip = (u64)regs[REG_RIP];
	unsigned short code;

	(void)sig, (void)info;
	stepped.counter += STEP;
	if (ip < stepped.begin || ip >= stepped.end)
		return;
	if (++stepped.steps == stepped.handler_at) {
		stepped.counter += HANDLERS;
		make_anew();
	}
	memcpy(&code, (const void *)ip, sizeof(code));
	if (code != RDTSC)
		return;
	regs[REG_RIP] += sizeof(code);
	regs[REG_RAX] = (u32)stepped.counter;
	regs[REG_RDX] = (greg_t)(stepped.counter >> 32);
}

/* SHIM_FUNC_CLOCK_OWN */
u64 scale_counter(void)
{
	return stepped.counter;
}

static void set_trap(u64 on)
{
	__asm__ volatile("pushf\n\tandq %0, (%%rsp)\n\torq %1, (%%rsp)\n\tpopf"
			 :
			 : "r"(~(u64)TRAP_FLAG), "r"(on)
			 : "memory", "cc");
}

/* How many times were not between the counter's before and behind the run, with the handler's run before each
 * of the image's instructions in turn; *runs: how many there were. */
u64 scale_stepped(image_fn image, u64 size, struct shim_run *run, u64 *runs)
{
	struct sigaction act = { .sa_sigaction = on_step, .sa_flags = SA_SIGINFO }, before;
	u64 wrong = 0;

	sigaction(SIGTRAP, &act, &before);
	stepped.run = run;
	stepped.begin = (u64)image;
	stepped.end = (u64)image + size;
	stepped.counter = 1ull << 40;
	clock_of(run)->rate = 1ull << 32;
	for (stepped.handler_at = 1, stepped.steps = ~0ull; stepped.steps >= stepped.handler_at;
	     stepped.handler_at++) {
		u64 began, now;

		stepped.steps = 0;
		make_anew();
		began = stepped.counter;
		set_trap(TRAP_FLAG);
		now = image(0, run);
		set_trap(0);
		wrong += now < began || now > stepped.counter;
	}
	sigaction(SIGTRAP, &before, 0);
	*runs = stepped.handler_at - 1;
	return wrong;
}
