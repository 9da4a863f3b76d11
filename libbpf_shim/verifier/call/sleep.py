"""What may sleep: the program, and callbacks that run by themselves. Ready for mypyc.

Source: Linux 6.18, kernel/bpf/verifier.c, in_sleepable, in_rcu_cs.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.verifier.env import Env

SLEEPABLE: Final = 1 << 4  # BPF_F_SLEEPABLE
# Callbacks that run in a work queue's or a task's own context (Frame.callback): they may sleep.
WORK: Final = 1002
TASK_WORK: Final = 1003


def sleepable(env: Env) -> bool:
    """The program, or the callback that runs by itself, may sleep where no section is open."""
    callback = env.cur.frames[0].callback
    if callback:
        return callback in (WORK, TASK_WORK)
    return (env.program.prog_flags & SLEEPABLE) != 0


def in_rcu(env: Env) -> bool:
    """RCU protects what is looked at here."""
    return env.cur.rcu > 0 or bool(env.cur.locks) or not sleepable(env)
