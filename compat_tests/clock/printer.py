"""printer PROGRAM: with bcc, prints what a program on its `flooded` says in the trace pipe."""

import subprocess
import sys

from bcc import BPF

TEXT = r"""
#include <uapi/linux/ptrace.h>
int hit(struct pt_regs *ctx) {
    bpf_trace_printk("number %d\n", (int)PT_REGS_PARM1(ctx));
    return 0;
}
"""
program = BPF(text=TEXT)
program.attach_uprobe(name=sys.argv[1], sym="flooded", fn_name="hit")
subprocess.run([sys.argv[1], "3"], check=True)
for _ in range(3):
    task, _, _, _, _, message = program.trace_fields()
    print(task.decode(), message.decode(), flush=True)
