/* What a system call leaves of registers, flags and the red zone, at each of the sites of sites.S. */
#include <stdlib.h>
#include <unistd.h>

#include "caller.h"
#include "sites.h"

static const struct {
	const char *name;
	site *call;
	int zone; /* words of the red zone, from its low end, that are nobody else's */
} sites[] = {
	{ "plain", plain, 16 },		{ "variable", variable, 16 }, { "several", several, 15 },
	{ "shared", shared, 16 },	{ "late", late, 16 },	      { "calling", calling, 14 },
	{ "returning", returning, 15 }, { "island", island, 15 },
};

static void fill(void *at, size_t size)
{
	for (size_t i = 0; i < size; i++)
		((unsigned char *)at)[i] = (unsigned char)rand();
}

static void one_site(int which, int jump)
{
	enum { FLAGS = 0xcd5, ALWAYS = 0x202, GETPID = 39 };
	struct state in, out, want;
	char what[64] = "";

	fill(&in, sizeof(in));
	in.flags = (in.flags & FLAGS) | ALWAYS;
	in.bp = in.r12 = GETPID;
	in.ax = jump ? 0 : in.ax | 1;
	if (sites[which].call == plain)
		in.r15 = 0x1122334455667788;
	sites[which].call(&in, &out);
	want = in;
	want.after = out.after;
	if (!jump) {
		want.ax = (uint64_t)getpid();
		want.cx = out.after;
		want.r11 = in.flags;
	}
	for (int i = sites[which].zone; i < 16; i++)
		want.zone[i] = out.zone[i];
	out.flags &= FLAGS | ALWAYS;
	for (size_t i = 0; i < sizeof(out) / 8; i++)
		if (((uint64_t *)&want)[i] != ((uint64_t *)&out)[i])
			snprintf(what, sizeof(what), "word %zu is %lx, not %lx", i,
				 ((uint64_t *)&out)[i], ((uint64_t *)&want)[i]);
	if (what[0] && !wrong[0])
		snprintf(wrong, sizeof(wrong), "%s (%d): %s", sites[which].name, jump, what);
}

void t_sites(void)
{
	for (int i = 0; i < (int)(sizeof(sites) / sizeof(sites[0])); i++)
		one_site(i, 0);
}

void t_jumps(void)
{
	one_site(3, 1);
	one_site(4, 1);
}

void t_entry(void)
{
	for (int i = 0; i < 5; i++)
		CHECK(entry_call() == getpid());
}
