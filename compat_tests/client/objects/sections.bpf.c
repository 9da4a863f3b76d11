#include "core.h"

int plain = 4;
static int only_static = 5;
int zero;
static int zero_static[100];
int custom SEC(".data.custom") = 7;
static volatile int hushed SEC(".data.hushed") = 8;
const int steady SEC(".rodata.steady") = 9;
static const volatile int quiet SEC(".rodata.quiet") = 10;
int wide SEC(".bss.wide");
__attribute__((visibility("hidden"))) int veiled SEC(".data.veiled") = 11;
const volatile int longname SEC(".rodata.a_name_that_is_too_long") = 12;

SEC("raw_tp/sched_wakeup")
int touch(void *ctx)
{
	plain++;
	only_static += plain;
	zero += only_static;
	zero_static[plain & 63]++;
	custom += hushed++;
	wide += steady + quiet;
	veiled += longname;
	return zero_static[zero & 63];
}
