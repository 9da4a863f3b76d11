#include "core.h"

struct rq {
	int nr_running;
} CORE;

extern const void bpf_prog_put __ksym;
extern const void nosuch_symbol __ksym __weak;
extern const struct rq runqueues __ksym;
extern const int nosuch_typed __ksym __weak;
extern const int cpu_number __ksym __weak;

u64 out[8];

SEC("raw_tp/sys_enter")
int addresses(void *ctx)
{
	out[0] = (u64)&bpf_prog_put;
	out[1] = (u64)&nosuch_symbol;
	out[2] = (u64)&runqueues;
	out[3] = &nosuch_typed ? 1 : 2;
	out[4] = (u64)&cpu_number;
	return 0;
}
