"""How long a loop that only may_goto ends goes on: one budget for each call of a function.

The kernel lets a loop run for 250 ms where its JIT can read a clock, else for 8,388,608 rounds
(BPF_MAX_LOOPS, kernel/bpf/verifier.c, bpf_do_misc_fixups). Here it is the rounds always, so that a
run can be repeated and the interpreter ends where compiled code does.
"""

from __future__ import annotations

MAY_GOTO_ROUNDS = 8 * 1024 * 1024
