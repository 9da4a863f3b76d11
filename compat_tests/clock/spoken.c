/*
 * spoken [FLOOD [AFTER]]: calls what printer.bpf.c is attached to; flooded() so many times on one CPU,
 * and so many times more now and then, when whoever reads has come after.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORT __attribute__((noinline, noclone, noipa, visibility("default")))

static volatile long sink;

EXPORT long spoken(const char *text, long number)
{
	sink += number + text[0];
	return sink;
}

EXPORT long flooded(long number)
{
	sink += number;
	return sink;
}

int main(int argc, char **argv)
{
	static const char *volatile words = "some words of this";
	const char *text = words;
	long flood = argc > 1 ? atol(argv[1]) : 0, after = argc > 2 ? atol(argv[2]) : 0;
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(0, &one);
	sched_setaffinity(0, sizeof(one), &one);
	sink = strlen(text); /* the page is there when a program reads it */
	for (long i = 1; i <= flood; i++)
		flooded(i);
	for (long i = 1; i <= after; i++) {
		usleep(10000);
		flooded(flood + i);
	}
	for (long i = -1; i < 3 && !flood; i++)
		spoken(text, i * 1000);
	return 0;
}
