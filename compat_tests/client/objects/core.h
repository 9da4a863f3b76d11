/* What every object here begins with; types of the kernel as far as they are asked about. */
#include <linux/bpf.h>
#include <linux/bpf_perf_event.h>
#include <linux/ptrace.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#define CORE __attribute__((preserve_access_index))
#define NOINLINE __attribute__((noinline))

typedef __u32 u32;
typedef __u64 u64;
typedef int s32;
typedef int pid_t;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
