/* compute_programs.h for the machine itself. */
unsigned long long answer_cpu(void);
unsigned long long answer_pid_tgid(void);

#define PROGRAM(name) __attribute__((noinline)) int native_##name(void)
#define CPU() answer_cpu()
#define PID_TGID() answer_pid_tgid()

#include "compute_programs.h"
