#include "core.h"

#include <bpf/usdt.bpf.h>

long args[5];
u64 hits, cookie;

SEC("usdt")
int BPF_USDT(on_told, int number, long twice, short small, int constant)
{
	__sync_fetch_and_add(&hits, 1);
	args[0] = number;
	args[1] = twice;
	args[2] = small;
	args[3] = constant;
	args[4] = bpf_usdt_arg_cnt(ctx);
	cookie = bpf_usdt_cookie(ctx);
	return 0;
}
