/* spoken [FLOOD]: calls what printer.bpf.c and deeds.bpf.c are attached to. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
	long flood = argc > 1 ? atol(argv[1]) : 0;

	sink = strlen(text); /* the page is there when a program reads it */
	if (flood)
		for (long i = 1; i <= flood; i++)
			flooded(i);
	else
		for (long i = -1; i < 3; i++)
			spoken(text, i * 1000);
	return 0;
}
